package node

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// ArchivesVariable names the environment variable that may hold a folder of ready archives (<engine>.zip).
const ArchivesVariable = "DOMAIN_FERRY_NODES"

// CacheDir returns the folder in which archives are unpacked, and creates it. It is <user cache>/domain-ferry/nodes, unless the
// caller is root and the nodes' unprivileged user could not enter that (root's home is closed on most systems): then it is the
// system's cache folder, and if that cannot be written either, a folder below os.TempDir that only root can write.
func CacheDir() (string, error) {
	var candidates []string
	if dir, err := os.UserCacheDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "domain-ferry", "nodes"))
	}
	if os.Geteuid() == 0 {
		candidates = append(candidates, "/var/cache/domain-ferry/nodes", filepath.Join(os.TempDir(), "domain-ferry-nodes"))
	}
	var problems []error
	for _, dir := range candidates {
		if err := prepareCache(dir); err != nil {
			problems = append(problems, err)
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("no folder for the engines' files: %w", errors.Join(problems...))
}

// prepareCache makes dir and checks that nobody else can put programs into it and that the nodes' user can run those in it.
func prepareCache(dir string) error {
	if err := enterable(existingAncestor(dir)); err != nil {
		return err
	}
	if err := makeOpenDirs(dir); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must be a folder that belongs to the caller alone (it is %v of user %d)", dir, info.Mode(), owner)
	}
	return enterable(dir)
}

func existingAncestor(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// makeOpenDirs is MkdirAll with mode 0755 whatever the umask, for the folders that it makes itself.
func makeOpenDirs(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		return nil
	}
	if err := makeOpenDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// Prepare returns the folder of the unpacked engine, fetching and unpacking it when this is the first use on this machine (30 to
// 160 MB over the network). It tells progress, which may be nil, what it does. Several processes may call it at once.
func Prepare(ctx context.Context, engine Engine, progress io.Writer) (string, error) {
	if _, err := engine.requirement(); err != nil {
		return "", err
	}
	if progress == nil {
		progress = io.Discard
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, engine.String())
	if isUnpacked(home) {
		return home, nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, engine.String()+".lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isUnpacked(home) {
		return home, nil
	}

	work, err := os.MkdirTemp(cache, engine.String()+".partial-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	archive, ok := readyArchive(engine)
	if ok {
		fmt.Fprintf(progress, "%s: unpacking %s\n", engine, archive)
	} else {
		fmt.Fprintf(progress, "%s: fetching it with Maven, once\n", engine)
		if archive, err = fetch(ctx, engine, work); err != nil {
			return "", err
		}
	}
	tree := filepath.Join(work, "tree")
	if err := unpack(archive, tree); err != nil {
		return "", fmt.Errorf("unpack %s: %w", archive, err)
	}
	root := filepath.Join(tree, engine.String())
	if !isUnpacked(root) {
		return "", fmt.Errorf("unpack %s: there is no %s/bin/%s in it", archive, engine, engine.Distribution)
	}
	if err := os.Rename(root, home); err != nil {
		return "", err
	}
	fmt.Fprintf(progress, "%s: ready in %s\n", engine, home)
	return home, nil
}

// isUnpacked needs no more than one file: Prepare renames a complete tree into place.
func isUnpacked(home string) bool {
	distribution, _, _ := strings.Cut(filepath.Base(home), "-")
	_, err := os.Stat(filepath.Join(home, "bin", distribution))
	return err == nil
}

func readyArchive(engine Engine) (string, bool) {
	dir := os.Getenv(ArchivesVariable)
	if dir == "" {
		return "", false
	}
	path := filepath.Join(dir, engine.String()+".zip")
	info, err := os.Stat(path)
	return path, err == nil && info.Mode().IsRegular()
}

// fetch has Maven copy the engine's integ-test archive into dir. Maven checks the repository's checksums.
func fetch(ctx context.Context, engine Engine, dir string) (string, error) {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", noArchive(engine)
	}
	group := "org." + engine.Distribution + ".distribution.integ-test-zip"
	artifact := fmt.Sprintf("%s:%s:%s:zip", group, engine.Distribution, engine.Version)
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
	cmd.Dir = dir
	cmd.Stdin = nil
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch %s with Maven: %w: %s", artifact, err, tail(out, 800))
	}
	path := filepath.Join(dir, engine.String()+".zip")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("fetch %s with Maven: it ended well but left no archive: %w", artifact, err)
	}
	return path, nil
}

func noArchive(engine Engine) error {
	return fmt.Errorf("%s is not on this machine yet and Maven (mvn) is not on PATH to fetch it; install Maven, or put %s.zip into a "+
		"folder named by %s", engine, engine, ArchivesVariable)
}

// unpack writes the archive below dir, readable by all and with the start scripts executable. os.Root keeps it below dir.
func unpack(archive, dir string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range r.File {
		name := filepath.FromSlash(strings.TrimSuffix(f.Name, "/"))
		if f.FileInfo().IsDir() {
			if err := openDir(root, name); err != nil {
				return err
			}
			continue
		}
		if !f.Mode().IsRegular() {
			return fmt.Errorf("%s is neither file nor folder", f.Name)
		}
		if err := openDir(root, filepath.Dir(name)); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if f.Mode().Perm()&0o111 != 0 || filepath.Base(filepath.Dir(name)) == "bin" {
			mode = 0o755
		}
		if err := unpackFile(root, name, f, mode); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

func openDir(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if err := openDir(root, filepath.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return root.Chmod(name, 0o755)
}

func unpackFile(root *os.Root, name string, f *zip.File, mode fs.FileMode) error {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil { // checks the archive's checksum of this file at its end
		_ = out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func tail(b []byte, n int) string {
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return strings.TrimSpace(string(b))
}
