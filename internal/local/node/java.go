package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// jdk is an installed Java.
type jdk struct {
	home  string
	major int
}

// findJava returns the Java that r runs best on: the highest version up to 21 that is in range, else the lowest above it. (The
// engines of 2026 are built for 17 and 21; newer ones work but warn.)
func findJava(r requirement) (jdk, error) {
	var best jdk
	var seen []string
	for _, home := range javaHomes() {
		major, err := javaMajor(home)
		if err != nil {
			continue
		}
		seen = append(seen, fmt.Sprintf("%d (%s)", major, home))
		if major < r.minJava || major > r.maxJava {
			continue
		}
		candidate := jdk{home, major}
		switch {
		case best.home == "":
			best = candidate
		case best.major <= 21 && major <= 21 && major > best.major, best.major > 21 && major < best.major:
			best = candidate
		}
	}
	if best.home != "" {
		return best, nil
	}
	wanted := fmt.Sprintf("%d to %d", r.minJava, r.maxJava)
	if r.maxJava >= 99 {
		wanted = fmt.Sprintf("%d or newer", r.minJava)
	}
	found := "none was found"
	if len(seen) > 0 {
		found = "found only " + strings.Join(seen, ", ")
	}
	return jdk{}, fmt.Errorf("%s needs Java %s, %s; install one, or point JAVA_HOME at it", r.engine, wanted, found)
}

// javaHomes lists where a Java may be: JAVA_HOME, JAVA_HOME_<n> and JAVA<n>_HOME (as build machines set them), the java on PATH,
// and the customary folders of Linux packages, macOS and SDKMAN. A home that does not exist is no error.
func javaHomes() []string {
	var homes []string
	seen := map[string]bool{}
	add := func(home string) {
		if home == "" {
			return
		}
		if real, err := filepath.EvalSymlinks(home); err == nil {
			home = real
		}
		if !seen[home] {
			seen[home] = true
			homes = append(homes, home)
		}
	}
	add(os.Getenv("JAVA_HOME"))
	named := regexp.MustCompile(`^JAVA(_HOME_\d+.*|_?\d+_HOME.*)$`)
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); named.MatchString(name) {
			add(value)
		}
	}
	if path, err := exec.LookPath("java"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			add(filepath.Dir(filepath.Dir(real)))
		}
	}
	patterns := []string{"/usr/lib/jvm/*", "/usr/lib64/jvm/*", "/opt/java/*", "/Library/Java/JavaVirtualMachines/*/Contents/Home"}
	if home, err := os.UserHomeDir(); err == nil {
		patterns = append(patterns, filepath.Join(home, ".sdkman/candidates/java/*"))
	}
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		for _, home := range found {
			add(home)
		}
	}
	return homes
}

var javaVersion = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// probed remembers what `java -version` said: a probe costs a tenth of a second and Available is asked often.
var probed sync.Map

// javaMajor asks the java below home for its major version.
func javaMajor(home string) (int, error) {
	if major, ok := probed.Load(home); ok {
		return major.(int), nil
	}
	java := filepath.Join(home, "bin", "java")
	if runtime.GOOS == "windows" {
		return 0, errors.New("the start scripts need a Unix system")
	}
	if _, err := os.Stat(java); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s -version: %w", java, err)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s -version printed no version", java)
	}
	major, err := strconv.Atoi(string(m[1]))
	if err == nil {
		probed.Store(home, major)
	}
	return major, err
}
