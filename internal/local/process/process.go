// Package process runs programs that must not outlive this one: the S3 gateway, Lambda functions, search nodes.
//
// Each is the leader of a process group of its own, so that a signal reaches whatever it started too, and Ctrl-C in a terminal
// reaches none of them before this program has decided what to do. On Linux the kernel kills the leader when this program dies in
// any way, SIGKILL included; other systems have nothing like it, and leave the program running then.
package process

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Process is a started program. Its methods may be called from several goroutines.
type Process struct {
	pid    int
	exited chan struct{} // closed once the leader has been awaited
	err    error         // what Wait said; read it only after exited is closed
}

// Start starts cmd as the leader of a group of its own and awaits it in the background. When the leader ends, what is left of its
// group is killed. It sets Setpgid (and Pdeathsig on Linux) in cmd.SysProcAttr and leaves the rest of it as it is.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithCaller(cmd.SysProcAttr)
	p := &Process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see dieWithCaller: this thread is the program's parent until Wait returns
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		// What the leader left behind in its group would keep its ports and logs.
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Pid returns the leader's id, which is the group's id too.
func (p *Process) Pid() int { return p.pid }

// Exited returns a channel that is closed once the leader has ended and been awaited.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Running reports whether the leader has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Err waits for the leader's end and returns what exec.Cmd.Wait said: nil for exit status 0.
func (p *Process) Err() error {
	<-p.exited
	return p.err
}

// Ending waits for the leader's end and says it in words, such as "exit status 1" or "signal: killed".
func (p *Process) Ending() string {
	if err := p.Err(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// Signal sends s to the whole group. After the leader's end it does nothing: the id may be another's by then.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := syscall.Kill(-p.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to process group %d: %w", s, p.pid, err)
	}
	return nil
}

// End sends s to the whole group and waits up to patience for the leader's end. It reports whether the leader ended.
func (p *Process) End(s syscall.Signal, patience time.Duration) (bool, error) {
	if err := p.Signal(s); err != nil {
		return false, err
	}
	select {
	case <-p.exited:
		return true, nil
	case <-time.After(patience):
		return false, nil
	}
}
