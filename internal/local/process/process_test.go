package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With this variable set the test binary starts a program, says its id and waits to be killed.
const parentVariable = "PROCESS_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		p, err := Start(exec.Command("/bin/sh", "-c", "exec sleep 600"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.Pid())
		select {}
	}
	os.Exit(m.Run())
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(exec.Command("/bin/sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if ended, err := p.End(syscall.SIGKILL, 10*time.Second); !ended || err != nil {
			t.Errorf("process %d did not end: %v", p.Pid(), err)
		}
	})
	return p
}

// awaitGone waits until no process (or group, when negative) has this id any more; a zombie counts as gone.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if !lives(pid) {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func lives(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return runtime.GOOS != "linux" // there is no /proc elsewhere; here it went between the two looks
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestDiesWithItsCaller(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent death signal")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentVariable+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	_ = parent.Process.Kill()
	_ = parent.Wait()
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q: %v, %v", line, readErr, err)
	}
	awaitGone(t, child)
}

// The thread that the caller happened to run on may end; the program must not notice.
func TestOutlivesTheCallersThread(t *testing.T) {
	var p *Process
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		p = start(t, "exec sleep 600")
	}()
	<-done
	select {
	case <-p.Exited():
		t.Errorf("the program died with the thread: %s", p.Ending())
	case <-time.After(200 * time.Millisecond): // an event that must not come has no condition to poll
	}
}

func TestEndings(t *testing.T) {
	for script, want := range map[string]string{"exit 0": "exit status 0", "exit 3": "exit status 3", "kill -9 $$": "signal: killed"} {
		p := start(t, script)
		if got := p.Ending(); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
		if err := p.Signal(syscall.SIGKILL); err != nil || p.Running() {
			t.Errorf("%s: after the end: %v, running %v", script, err, p.Running())
		}
	}
	if _, err := Start(exec.Command("/no/such/program")); err == nil {
		t.Error("a program that does not exist was started")
	}
}

func TestEndReachesTheGroup(t *testing.T) {
	dir := t.TempDir()
	p := start(t, `sleep 600 & echo $! >"`+dir+`/tmp" && mv "`+dir+`/tmp" "`+dir+`/pid" && trap '' TERM && while :; do wait; done`)
	var child int
	for deadline := time.Now().Add(10 * time.Second); child == 0; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(dir + "/pid"); err == nil {
			child, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		if time.Now().After(deadline) {
			t.Fatal("the program did not say its child's id")
		}
	}
	if ended, err := p.End(syscall.SIGKILL, 10*time.Second); !ended || err != nil {
		t.Fatalf("ended %v, %v", ended, err)
	}
	awaitGone(t, child)
}
