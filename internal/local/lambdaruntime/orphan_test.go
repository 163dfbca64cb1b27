package lambdaruntime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostVariable names a folder: the test binary then hosts the Lambda below, has it hang in an invocation (an idle one would end by
// itself, for want of its Runtime API), says its process's id and waits to be killed.
const hostVariable = "LAMBDARUNTIME_TEST_HOST"

func hostUntilKilled(dir string) {
	pid, err := hang(dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(pid)
	select {}
}

func hang(dir string) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	h, err := Start(Config{LogDir: dir, Functions: []Function{
		{Name: "step", Binary: self, Timeout: time.Minute, Env: map[string]string{bootstrapVariable: "serve"}},
	}})
	if err != nil {
		return 0, err
	}
	touch := filepath.Join(dir, "hanging")
	payload, err := json.Marshal(event{Do: "hang", Touch: touch})
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Invoke(context.Background(), "step", payload)
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			return 0, fmt.Errorf("the function did not hang: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
		if _, err := os.Stat(touch); err == nil {
			return h.PIDs("step")[0], nil
		}
	}
}

func TestFunctionsDieWithTheirHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent death signal")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.Command(self)
	host.Env = append(os.Environ(), hostVariable+"="+t.TempDir())
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	_ = host.Process.Kill()
	_ = host.Wait()
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the host said %q: %v, %v", line, readErr, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// In a container without an init an orphan may stay as a zombie, which has no command line any more.
		command, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if errors.Is(err, os.ErrNotExist) || err == nil && len(command) == 0 {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the function's process %d outlives its host", pid)
		}
	}
}
