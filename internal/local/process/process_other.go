//go:build !linux

package process

import "syscall"

// dieWithCaller can do nothing here: only Linux has a parent death signal. A caller killed by SIGKILL leaves its programs running.
func dieWithCaller(*syscall.SysProcAttr) {}
