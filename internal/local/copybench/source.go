package copybench

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/domainferry/domainferry/internal/repository"
)

// source is a repository in a bucket's folder, written as a node writes it: behind the gateway's back.
type source struct {
	dir     string // of the base path
	config  Config
	changed []string // files of the delta
	random  *rand.Rand
	block   []byte
}

const shards = 16

func newSource(dir string, c Config) *source {
	s := &source{dir: dir, config: c, random: rand.New(rand.NewPCG(c.Seed, 1)), block: make([]byte, 1<<20)}
	for i := range s.block {
		s.block[i] = byte(s.random.Uint32())
	}
	return s
}

func (s *source) write(name string, size int64) error {
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := size; left > 0; {
		n, err := f.Write(s.block[:min(left, int64(len(s.block)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return f.Close()
}

func (s *source) blob() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	name := make([]byte, 22)
	for i := range name {
		name[i] = alphabet[s.random.IntN(len(alphabet))]
	}
	return fmt.Sprintf("indices/Xa-_0000000000000000aa/%d/__%s", s.random.IntN(shards), name)
}

// files writes so many objects of a size (or, of 0, of 4 to 64 KB) and returns their names.
func (s *source) files(n int, size int64) (names []string, err error) {
	for range n {
		name, length := s.blob(), size
		if length == 0 {
			length = 4<<10 + s.random.Int64N(60<<10)
		}
		if err := s.write(name, length); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

// root writes the root document of a generation with its snapshot, and removes that of another.
func (s *source) root(generation, instead int64) error {
	content, err := json.Marshal(map[string]any{
		"snapshots": []any{map[string]any{"name": snapshotName, "uuid": "u1", "state": 1, "version": "7.10.2"}},
		"indices":   map[string]any{"logs": map[string]any{"id": "Xa-_0000000000000000aa", "snapshots": []string{"u1"}}},
		"padding":   generation,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, repository.RootName(generation)), content, 0o666); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, repository.LatestName), repository.EncodeLatest(generation), 0o666); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, repository.RootName(instead))); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (s *source) fill() error {
	for _, group := range []struct {
		n    int
		size int64
	}{{s.config.Small, 0}, {s.config.Medium, 5 << 20}, {s.config.Large, s.config.LargeMB << 20}} {
		if _, err := s.files(group.n, group.size); err != nil {
			return err
		}
	}
	for name, size := range map[string]int64{"meta-u1.dat": 5000, "snap-u1.dat": 500, "indices/Xa-_0000000000000000aa/meta-u1.dat": 3000} {
		if err := s.write(name, size); err != nil {
			return err
		}
	}
	for i := range shards {
		for _, name := range []string{"snap-u1.dat", "index-g1"} {
			if err := s.write(fmt.Sprintf("indices/Xa-_0000000000000000aa/%d/%s", i, name), 2000); err != nil {
				return err
			}
		}
	}
	return s.root(0, 1)
}

// change adds one object in a hundred and the next root document; restore takes both away again.
func (s *source) change() (err error) {
	for _, group := range []struct {
		n    int
		size int64
	}{{(s.config.Small + 99) / 100, 0}, {(s.config.Medium + 99) / 100, 5 << 20}} {
		names, err := s.files(group.n, group.size)
		s.changed = append(s.changed, names...)
		if err != nil {
			return err
		}
	}
	return s.root(1, 0)
}

func (s *source) restore() error {
	for _, name := range s.changed {
		if err := os.Remove(filepath.Join(s.dir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	s.changed = nil
	return s.root(0, 1)
}

// sizes lists a folder's files: relative name and size.
func sizes(dir string) (map[string]int64, error) {
	found := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		found[filepath.ToSlash(relative)] = info.Size()
		return err
	})
	if os.IsNotExist(err) {
		return found, nil
	}
	return found, err
}

// missing counts what a destination lacks of the source, or has in another size.
func missing(source, destination string) (n int, err error) {
	want, err := sizes(source)
	if err != nil {
		return 0, err
	}
	got, err := sizes(destination)
	if err != nil {
		return 0, err
	}
	for name, size := range want {
		if there, ok := got[name]; !ok || there != size {
			n++
		}
	}
	return n, nil
}
