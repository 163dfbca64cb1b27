package process

import "syscall"

// dieWithCaller has the kernel send SIGKILL to the program when its parent dies. For the kernel the parent is the operating system
// thread that started it, not the process: Go may end a thread at any time. Start therefore starts and awaits each program on one
// goroutine that stays locked to its thread for the program's whole life. The signal survives an exec (a shell's, of the real
// program), and Go sets it after a change of user, which would clear it.
func dieWithCaller(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
