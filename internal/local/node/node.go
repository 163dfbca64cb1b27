package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/domainferry/domainferry/internal/local/process"
)

// Limits of one node.
const (
	defaultHeap   = "512m"
	startPatience = 5 * time.Minute // up in 6 to 10 s on two free cores, but a busy machine may take minutes
	stopPatience  = 15 * time.Second
	killPatience  = 15 * time.Second
)

// Config says how to run one node. Engine and Dir are needed.
type Config struct {
	Engine Engine
	// Dir is the node's own folder, made when missing: config, data, logs, tmp and repositories below it. Data found there is used.
	Dir string
	// Heap is the Java heap, such as "512m" (the default) or "1g". The process takes about 300 MB more.
	Heap string
	// RepositoryRoot is a folder below which `fs` repositories may lie (path.repo): the S3 gateway's root. Optional.
	RepositoryRoot string
	// LogPath receives what the node prints, appended; by default logs/node.log below Dir.
	LogPath string
	// Settings are further lines of the node's configuration file, key to value.
	Settings map[string]string
	// Progress is told of downloads and waits, one line each. Optional.
	Progress io.Writer
}

// Node is a running node, or one that has been stopped and can be started again on its data.
type Node struct {
	Engine  Engine
	URL     string // http://127.0.0.1:<port>, the same over restarts
	LogPath string
	// PrivateRepositories is a folder that the node may keep `fs` repositories in beside the RepositoryRoot, seen by no S3 gateway.
	PrivateRepositories string

	cfg     Config
	home    string
	java    jdk
	account *account
	ports   []int // HTTP, transport

	mu      sync.Mutex
	process *process.Process
}

// Available returns nil when engine can be run on this machine, and otherwise the reason and what to install. It may promise a
// node whose archive Maven then cannot reach.
func Available(engine Engine) error {
	r, err := engine.requirement()
	if err != nil {
		return err
	}
	if _, err := findJava(r); err != nil {
		return err
	}
	if _, err := exec.LookPath("bash"); err != nil {
		return fmt.Errorf("%s is started by a bash script, and bash is not on PATH", engine)
	}
	if _, err := nodeAccount(); err != nil {
		return err
	}
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	if isUnpacked(filepath.Join(cache, engine.String())) {
		return nil
	}
	if _, ok := readyArchive(engine); ok {
		return nil
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return noArchive(engine)
	}
	return nil
}

// Start starts a node and waits, five minutes at most, until it answers and its health is known and not red. ctx ends the waiting
// (and then the node) but not a node that Start has returned: call Stop for that. On an error nothing is left running; the error
// quotes the end of the node's log.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	n, err := prepare(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Engine, err)
	}
	for try := 1; ; try++ {
		err := n.launch(ctx)
		if err == nil {
			return n, nil
		}
		if try == 3 || !errors.Is(err, errPortTaken) {
			return nil, fmt.Errorf("start %s: %w", cfg.Engine, err)
		}
		if err := n.choosePorts(); err != nil {
			return nil, fmt.Errorf("start %s: %w", cfg.Engine, err)
		}
	}
}

// prepare readies everything that a node needs but its process.
func prepare(ctx context.Context, cfg Config) (*Node, error) {
	r, err := cfg.Engine.requirement()
	if err != nil {
		return nil, err
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if strings.ContainsAny(cfg.Dir, " \t\n\"'$`\\") {
		return nil, fmt.Errorf("the folder %q has a blank or quote in its name, which the engine's start script cannot take", cfg.Dir)
	}
	if cfg.Heap == "" {
		cfg.Heap = defaultHeap
	}
	if !regexp.MustCompile(`^[1-9]\d*[kmgKMG]?$`).MatchString(cfg.Heap) {
		return nil, fmt.Errorf("heap %q is no size such as 512m or 1g", cfg.Heap)
	}
	n := &Node{Engine: cfg.Engine, cfg: cfg, LogPath: cfg.LogPath, PrivateRepositories: filepath.Join(cfg.Dir, "repositories")}
	if n.LogPath == "" {
		n.LogPath = filepath.Join(cfg.Dir, "logs", "node.log")
	}
	if n.java, err = findJava(r); err != nil {
		return nil, err
	}
	if n.account, err = nodeAccount(); err != nil {
		return nil, err
	}
	if n.home, err = Prepare(ctx, cfg.Engine, cfg.Progress); err != nil {
		return nil, err
	}
	if err := makeOpenDirs(cfg.Dir); err != nil {
		return nil, err
	}
	if err := enterable(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.RepositoryRoot != "" {
		if n.cfg.RepositoryRoot, err = filepath.Abs(cfg.RepositoryRoot); err != nil {
			return nil, err
		}
		if err := enterable(n.cfg.RepositoryRoot); err != nil {
			return nil, fmt.Errorf("repository root: %w", err)
		}
	}
	for _, sub := range []string{"config", "data", "logs", "tmp", "repositories"} {
		dir := filepath.Join(cfg.Dir, sub)
		if err := errors.Join(makeOpenDirs(dir), n.account.own(dir)); err != nil {
			return nil, err
		}
	}
	if err := n.copyConfig(); err != nil {
		return nil, err
	}
	return n, n.choosePorts()
}

func (n *Node) choosePorts() error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	n.ports = ports
	n.URL = "http://127.0.0.1:" + strconv.Itoa(ports[0])
	return n.writeConfig()
}

// logging has the node print to its standard output only.
const logging = `status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
`

// copyConfig makes the parts of the configuration folder that do not change from start to start.
func (n *Node) copyConfig() error {
	shipped, err := os.ReadFile(filepath.Join(n.home, "config", "jvm.options"))
	if err != nil {
		return err
	}
	return errors.Join(
		n.writeFile("config/jvm.options", n.jvmOptions(string(shipped))),
		n.writeFile("config/log4j2.properties", logging))
}

// gcAndPaths are the shipped options that are replaced: collectors that newer Javas do not have, and files relative to the
// engine's own folder, which is read-only here.
var gcAndPaths = regexp.MustCompile(`^-(Xm[sx]|Xlog|Xloggc|XX:[+-]?(Use\w*GC\b|UseConcMarkSweepGC|UseCMS|CMS|G1|InitiatingHeap|UseGCLog|` +
	`NumberOfGCLog|GCLogFileSize|PrintGC|PrintTenuring|HeapDump|ErrorFile))`)

// jvmOptions turns the shipped options into those for the Java at hand. The older start scripts would refuse or misread the
// version prefixes of newer lines, so the prefixes are resolved here.
func (n *Node) jvmOptions(shipped string) string {
	var out []string
	for line := range strings.Lines(shipped) {
		option, ok := forJava(strings.TrimSpace(line), n.java.major)
		if ok && !gcAndPaths.MatchString(option) {
			out = append(out, option)
		}
	}
	out = append(out,
		"-Xms"+n.cfg.Heap, "-Xmx"+n.cfg.Heap,
		// A node here lives for minutes on cores that it shares. Without the second compiler it took half the CPU time until ready
		// (2.19.0: 5.2 s against 10.4 s; 3.7.0: 12.7 s against 28.9 s) and less than half for the next 100,000 documents.
		"-XX:TieredStopAtLevel=1",
		"-XX:+UseSerialGC", // the smallest and, with heaps of half a gigabyte on shared cores, the quickest
		"-XX:ErrorFile="+filepath.Join(n.cfg.Dir, "logs", "hs_err_pid%p.log"))
	if n.Engine.before(7, 4) && n.java.major >= 17 {
		// 6.8 and 7.1 know nothing of strong encapsulation (reference: measured on JDK 17).
		out = append(out, "-Djava.security.manager=allow")
		for _, pkg := range []string{"lang", "io", "nio", "util", "net"} {
			out = append(out, "--add-opens=java.base/java."+pkg+"=ALL-UNNAMED")
		}
		out = append(out, "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED")
	}
	return strings.Join(out, "\n") + "\n"
}

var versioned = regexp.MustCompile(`^(\d+)(-)?(\d+)?:(.*)$`)

// forJava resolves the prefixes "8:", "9-:" and "8-13:" of a line of jvm.options.
func forJava(line string, major int) (string, bool) {
	if line == "" || strings.HasPrefix(line, "#") {
		return "", false
	}
	m := versioned.FindStringSubmatch(line)
	if m == nil {
		return line, true
	}
	low, _ := strconv.Atoi(m[1])
	high := low
	if m[2] != "" {
		high = 999
	}
	if m[3] != "" {
		high, _ = strconv.Atoi(m[3])
	}
	return m[4], low <= major && major <= high
}

// writeConfig writes the node's settings. JSON values are YAML values.
func (n *Node) writeConfig() error {
	repositories := []string{n.PrivateRepositories}
	if n.cfg.RepositoryRoot != "" {
		repositories = append(repositories, n.cfg.RepositoryRoot)
	}
	settings := map[string]any{
		"cluster.name":   "domain-ferry-" + filepath.Base(n.cfg.Dir),
		"node.name":      filepath.Base(n.cfg.Dir),
		"path.data":      filepath.Join(n.cfg.Dir, "data"),
		"path.logs":      filepath.Join(n.cfg.Dir, "logs"),
		"path.repo":      repositories,
		"network.host":   "127.0.0.1",
		"http.port":      n.ports[0],
		"discovery.type": "single-node",
		"cluster.routing.allocation.disk.threshold_enabled": false,
		// By default two cores give one snapshot thread, and restores share it: they would wait behind a throttled snapshot, which
		// no domain of a usual size does.
		"thread_pool.snapshot.max": 4,
	}
	if !n.Engine.before(7, 0) {
		// The parent breaker counts garbage as used. The collector that the engines ship with is made to collect then; the serial one is
		// not, and a node that refuses everything allocates nothing that would start it (seen: 429 for good at 95 % of the heap).
		settings["indices.breaker.total.use_real_memory"] = false
	}
	transport := "transport.port"
	if n.Engine.before(7, 1) {
		transport = "transport.tcp.port"
	}
	settings[transport] = n.ports[1]
	for key, value := range n.cfg.Settings {
		settings[key] = value
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		value, err := json.Marshal(settings[key])
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s: %s\n", key, value)
	}
	return n.writeFile("config/"+n.Engine.Distribution+".yml", b.String())
}

func (n *Node) writeFile(name, content string) error {
	path := filepath.Join(n.cfg.Dir, filepath.FromSlash(name))
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chmod(path, 0o644), n.account.own(path))
}

var errPortTaken = errors.New("a port was taken by another program meanwhile")

// launch starts the process and waits until the node is of use; on an error the process is gone.
func (n *Node) launch(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(n.LogPath), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}

	cmd := exec.Command(filepath.Join(n.home, "bin", n.Engine.Distribution))
	cmd.Dir = n.cfg.Dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + n.cfg.Dir,
		"LC_ALL=C.UTF-8",
		"JAVA_HOME=" + n.java.home,
		n.Engine.variable("JAVA_HOME") + "=" + n.java.home,
		n.Engine.variable("PATH_CONF") + "=" + filepath.Join(n.cfg.Dir, "config"),
		n.Engine.variable("TMPDIR") + "=" + filepath.Join(n.cfg.Dir, "tmp"),
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: n.account.credential()}

	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	n.process = p
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := n.await(ctx, p); err != nil {
		_, killErr := p.End(syscall.SIGKILL, killPatience)
		said := logSince(n.LogPath, begin)
		if strings.Contains(said, "Address already in use") || strings.Contains(said, "BindException") ||
			strings.Contains(said, "BindHttpException") || strings.Contains(said, "BindTransportException") {
			err = errPortTaken
		}
		return errors.Join(fmt.Errorf("%w; its log %s ends:\n%s", err, n.LogPath, tail([]byte(withoutStacks(said)), 1500)), killErr)
	}
	return nil
}

// withoutStacks leaves the lines of Java's stack traces out, which hide what the operator looks for.
func withoutStacks(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if trimmed := strings.TrimSpace(line); !strings.HasPrefix(trimmed, "at ") && !strings.HasPrefix(trimmed, "... ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func logSince(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err.Error()
	}
	b, _ := io.ReadAll(io.LimitReader(f, 4<<20))
	return string(b)
}

// await returns when the node answers and its health has settled: not red, or red for good. (An index whose restore was cut by the
// node's death is red for ever after the restart, measured on 7.10.2 and 2.19.0; waiting would not help.)
func (n *Node) await(ctx context.Context, p *process.Process) error {
	const settledRed = 20 // answers in a row, 150 ms apart
	red := 0
	var last error
	for {
		health, err := n.health(ctx)
		switch {
		case err != nil:
			last, red = err, 0
		case health.Status != "red":
			return nil
		case health.Initializing == 0 && health.Pending == 0:
			if red++; red >= settledRed {
				return nil
			}
		default:
			red = 0
		}
		select {
		case <-p.Exited():
			return fmt.Errorf("the node ended by itself (%s)", p.Ending())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the node was not ready in time: %w", ctx.Err()), last)
		case <-time.After(150 * time.Millisecond):
		}
	}
}

type health struct {
	Status       string `json:"status"`
	Initializing int    `json:"initializing_shards"`
	Pending      int    `json:"number_of_pending_tasks"`
}

func (n *Node) health(ctx context.Context) (health, error) {
	var root struct {
		Version struct {
			Number string `json:"number"`
		} `json:"version"`
	}
	if err := n.get(ctx, "/", &root); err != nil {
		return health{}, err
	}
	if root.Version.Number != n.Engine.Version {
		return health{}, fmt.Errorf("%s is answered by version %q, not by %s", n.URL, root.Version.Number, n.Engine)
	}
	var h health
	err := n.get(ctx, "/_cluster/health", &h)
	return h, err
}

var client = &http.Client{Timeout: 10 * time.Second}

func (n *Node) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s%s: HTTP %d: %s", n.URL, path, resp.StatusCode, tail(body, 300))
	}
	return json.Unmarshal(body, into)
}

// Pid returns the process id of the node's latest run, which is also its process group's.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process.Pid()
}

// Exited returns a channel that is closed when the latest run has ended, wanted or not.
func (n *Node) Exited() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process.Exited()
}

// Stop ends the node and waits for its end: politely first, by SIGKILL after 15 s. Stopping a node that has ended is no error.
func (n *Node) Stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ended, err := n.process.End(syscall.SIGTERM, stopPatience); ended || err != nil {
		return err
	}
	return n.kill()
}

// Kill9 ends the node by SIGKILL, as a machine failure would, and waits for its end.
func (n *Node) Kill9() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kill()
}

func (n *Node) kill() error {
	ended, err := n.process.End(syscall.SIGKILL, killPatience)
	if err != nil {
		return err
	}
	if !ended {
		return fmt.Errorf("%s (process %d) is still there %v after SIGKILL", n.Engine, n.process.Pid(), killPatience)
	}
	return nil
}

// Restart starts a node that has been stopped or killed again, on the same data and ports, and waits as Start does, except that it
// also accepts a health that stays red.
func (n *Node) Restart(ctx context.Context) error {
	n.mu.Lock()
	running := n.process.Running()
	n.mu.Unlock()
	if running {
		return fmt.Errorf("restart %s: it is still running; Stop or Kill9 it first", n.Engine)
	}
	if err := n.launch(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", n.Engine, err)
	}
	return nil
}
