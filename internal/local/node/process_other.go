//go:build !linux

package node

import "syscall"

// dieWithCaller can do nothing here: only Linux has a parent death signal. A caller killed by SIGKILL leaves its nodes running.
func dieWithCaller(*syscall.SysProcAttr) {}
