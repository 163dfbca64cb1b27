package domain

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Blobs is the store under one snapshot repository. Names are slash-separated and relative to the repository's location.
// Implementations are safe for concurrent use.
type Blobs interface {
	// Put writes a blob, whole or not at all, over an existing one of that name.
	Put(name string, data []byte) error
	// Get reads a blob; the error of a missing one is fs.ErrNotExist by errors.Is.
	Get(name string) ([]byte, error)
	// List names all blobs whose name starts with the prefix, at any depth, in no particular order.
	List(prefix string) ([]string, error)
	// Delete removes a blob; a missing one is no error.
	Delete(name string) error
}

// folder is a repository of real files below one directory.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), filepath.FromSlash(name)) }

func (f folder) Put(name string, data []byte) error {
	path := f.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// The engines' own name for a blob that is not complete yet; readers skip it.
	t, err := os.CreateTemp(filepath.Dir(path), "pending-")
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	if e := t.Chmod(0o644); err == nil {
		err = e
	}
	if e := t.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		_ = os.Remove(t.Name())
		return fmt.Errorf("write blob %s: %w", name, err)
	}
	return nil
}

func (f folder) Get(name string) ([]byte, error) { return os.ReadFile(f.path(name)) }

func (f folder) List(prefix string) ([]string, error) {
	// Only the folder that the prefix names is walked: roots hold tens of thousands of blobs below indices/.
	dir := ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = prefix[:i]
	}
	var names []string
	err := filepath.WalkDir(f.path(dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		name, err := filepath.Rel(string(f), path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if entry.IsDir() {
			if name != "." && !strings.HasPrefix(name+"/", prefix) && !strings.HasPrefix(prefix, name+"/") {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(name, prefix) && !strings.HasPrefix(entry.Name(), "pending-") {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

func (f folder) Delete(name string) error {
	if err := os.Remove(f.path(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
