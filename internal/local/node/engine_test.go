package node

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, e := range Supported() {
		if got, err := Parse(e.String()); err != nil || got != e {
			t.Errorf("Parse(%q) = %v, %v", e, got, err)
		}
	}
	for _, s := range []string{"", "opensearch", "opensearch-", "opensearch-7.10.2", "elasticsearch-8.0.0", "OpenSearch-2.19.0"} {
		if got, err := Parse(s); err == nil || !strings.Contains(err.Error(), "opensearch-2.19.0") {
			t.Errorf("Parse(%q) = %v, %v; the error should list what there is", s, got, err)
		}
	}
}

func TestJVMOptions(t *testing.T) {
	shipped := "# comment\n-Xms1g\n8-13:-XX:+UseConcMarkSweepGC\n14-:-XX:+UseG1GC\n-XX:+UseConcMarkSweepGC\n" +
		"9-:-Xlog:gc*:file=logs/gc.log\n8:-Xloggc:logs/gc.log\n-XX:HeapDumpPath=data\n18-:-Djava.security.manager=allow\n-Dkeep=1\n" +
		"10-:-Dalso=1\n"
	n := &Node{Engine: Engine{Elasticsearch, "6.8.0"}, cfg: Config{Dir: "/d", Heap: "512m"}, java: jdk{"/j", 17}}
	got := n.jvmOptions(shipped)
	for _, want := range []string{"-Dkeep=1\n", "-Dalso=1\n", "-Xmx512m\n", "-XX:+UseSerialGC\n", "-Djava.security.manager=allow\n",
		"--add-opens=java.base/sun.nio.ch=ALL-UNNAMED\n"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%d times %q in\n%s", strings.Count(got, want), want, got)
		}
	}
	for _, unwanted := range []string{"#", "CMS", "ConcMark", "G1", "gc.log", "HeapDump", "-Xms1g"} {
		if strings.Contains(got, unwanted) {
			t.Errorf("%q is in\n%s", unwanted, got)
		}
	}
	n.Engine.Version, n.java.major = "7.10.2", 17
	if got := n.jvmOptions(shipped); strings.Contains(got, "add-opens") || strings.Contains(got, "security.manager") {
		t.Errorf("7.10.2 on Java 17 needs no such options:\n%s", got)
	}
}

// fakeJava makes a Java home whose java prints the given version line.
func fakeJava(t *testing.T, line string) string {
	t.Helper()
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho '" + line + "' >&2\n"
	if err := os.WriteFile(filepath.Join(home, "bin", "java"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return home
}

func TestJavaMajor(t *testing.T) {
	for line, want := range map[string]int{
		`openjdk version "17.0.15" 2025-04-15`:   17,
		`java version "1.8.0_302"`:               8,
		`openjdk version "25" 2025-09-16 LTS`:    25,
		`openjdk version "21-ea" 2023-09-19 LTS`: 21,
	} {
		if got, err := javaMajor(fakeJava(t, line)); err != nil || got != want {
			t.Errorf("%s: %d, %v", line, got, err)
		}
	}
	if _, err := javaMajor(fakeJava(t, "nonsense")); err == nil {
		t.Error("a java without a version was accepted")
	}
	if _, err := javaMajor(t.TempDir()); err == nil {
		t.Error("an empty home was accepted")
	}
}

func TestFindJava(t *testing.T) {
	j11, j17, j25 := fakeJava(t, `x version "11.0.1"`), fakeJava(t, `x version "17.0.1"`), fakeJava(t, `x version "97"`)
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", j25)
	t.Setenv("JAVA_HOME_11_X64", j11)
	t.Setenv("JAVA17_HOME", j17)
	// Other Javas of the machine may win; the range and the order are what is tested.
	if got, err := findJava(requirement{Engine{}, 11, 11}); err != nil || got.major != 11 {
		t.Errorf("range 11 to 11: %+v, %v", got, err)
	}
	if got, err := findJava(requirement{Engine{}, 11, 17}); err != nil || got.major != 17 {
		t.Errorf("range 11 to 17: %+v, %v", got, err)
	}
	if got, err := findJava(requirement{Engine{}, 97, 97}); err != nil || got.home != j25 {
		t.Errorf("JAVA_HOME: %+v, %v", got, err)
	}
	_, err := findJava(requirement{Engine{OpenSearch, "3.7.0"}, 98, 99})
	if err == nil || !strings.Contains(err.Error(), "opensearch-3.7.0 needs Java 98 or newer") || !strings.Contains(err.Error(), j11) {
		t.Errorf("the error should name the need and what was found: %v", err)
	}
}

func writeZip(t *testing.T, path string, files map[string]string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPrepareFromReadyArchive(t *testing.T) {
	cacheHome, archives := openTempDir(t), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cacheHome)
	t.Setenv("HOME", cacheHome)
	t.Setenv(ArchivesVariable, archives)
	t.Setenv("PATH", t.TempDir())
	e := Engine{OpenSearch, "1.3.20"}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(cache, cacheHome) {
		t.Fatalf("the cache is %s, not below %s", cache, cacheHome)
	}

	if _, err := Prepare(t.Context(), e, nil); err == nil || !strings.Contains(err.Error(), ArchivesVariable) {
		t.Errorf("without archive and Maven: %v", err)
	}
	archive := filepath.Join(archives, "opensearch-1.3.20.zip")
	writeZip(t, archive, map[string]string{"../evil": "x"})
	if _, err := Prepare(t.Context(), e, nil); err == nil {
		t.Error("an archive that leaves its folder was unpacked")
	}
	writeZip(t, archive, map[string]string{"opensearch-1.3.20/README": "x"})
	if _, err := Prepare(t.Context(), e, nil); err == nil || !strings.Contains(err.Error(), "bin/opensearch") {
		t.Errorf("an archive of something else: %v", err)
	}
	writeZip(t, archive, map[string]string{"opensearch-1.3.20/bin/opensearch": "#!/bin/sh\n", "opensearch-1.3.20/lib/a.jar": "jar"})
	var said strings.Builder
	home, err := Prepare(t.Context(), e, &said)
	if err != nil || !strings.Contains(said.String(), "unpacking") {
		t.Fatalf("Prepare: %v; it said %q", err, said.String())
	}
	for name, want := range map[string]os.FileMode{"bin/opensearch": 0o755, "lib/a.jar": 0o644, "lib": 0o755 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(home, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	if again, err := Prepare(t.Context(), e, nil); err != nil || again != home {
		t.Errorf("the second Prepare: %s, %v", again, err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "*.partial-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
