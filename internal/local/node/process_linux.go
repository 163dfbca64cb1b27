package node

import "syscall"

// dieWithCaller has the kernel send SIGKILL to the node when its parent dies. For the kernel the parent is the operating system
// thread that started it, not the process: Go may end a thread at any time. spawn therefore starts and awaits each node on one
// goroutine that stays locked to its thread for the node's whole life. The signal survives the start script's exec of Java, and
// Go sets it after the change of user, which would clear it.
func dieWithCaller(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
