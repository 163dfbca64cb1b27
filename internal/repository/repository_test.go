package repository

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	for key, want := range map[string]Class{
		"index-0":                          RootIndex,
		"index-12":                         RootIndex,
		"index-9223372036854775807":        RootIndex,
		"index-9223372036854775808":        Other,
		"index-":                           Other,
		"index--1":                         Other,
		"index-+1":                         Other,
		"index-01":                         Other,
		"index-1.5":                        Other,
		"index.latest":                     RootLatest,
		"incompatible-snapshots":           Other,
		"snap-qd2nN1hYR.dat":               RootSnapshot,
		"meta-qd2nN1hYR.dat":               RootMetadata,
		"tests-Zx/master.dat":              Verification,
		"tests-Zx/data-abc.dat":            Verification,
		"pending-index-3":                  Pending,
		"indices/abc/meta-1.dat":           IndexMetadata,
		"indices/abc/0/__x":                Data,
		"indices/abc/0/__x.part0":          Data,
		"indices/abc/0/index-3":            ShardIndex,
		"indices/abc/0/index-uuid":         ShardIndex,
		"indices/abc/0/snap-u.dat":         ShardSnapshot,
		"indices/abc/0/pending-__x":        Pending,
		"indices/abc/0/shallow-snap-u.dat": ShallowSnapshot,
		"indices/abc/0/what":               Other,
		"indices/abc/index-1":              Other,
		"indices/index-1":                  Other,
		"snapshot_shard_paths/x":           Other,
		"hash/indices/abc/0/__x":           Data,
		"hash/base/indices/a/0/__x":        Data,
		"elsewhere/index-1":                Other,
		"":                                 Other,
		"/":                                Other,
		"indices":                          Other,
		"__x":                              Other,
	} {
		if got := Classify(key); got != want {
			t.Errorf("%q is %s, want %s", key, got, want)
		}
	}
}

func TestRootName(t *testing.T) {
	for _, n := range []int64{0, 9, 10, 1<<63 - 1} {
		if got, ok := ParseRootName(RootName(n)); !ok || got != n {
			t.Errorf("%d: %d %v", n, got, ok)
		}
	}
}

func TestLatest(t *testing.T) {
	if got := EncodeLatest(258); !bytes.Equal(got, []byte{0, 0, 0, 0, 0, 0, 1, 2}) {
		t.Errorf("%v", got)
	}
	for _, n := range []int64{0, 7, 1<<63 - 1} {
		if got, err := DecodeLatest(EncodeLatest(n)); err != nil || got != n {
			t.Errorf("%d: %d %v", n, got, err)
		}
	}
	for _, bad := range []string{"", "1234567", "123456789", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if n, err := DecodeLatest([]byte(bad)); err == nil {
			t.Errorf("%q is read as %d", bad, n)
		}
	}
}

// The documents of testdata were written by single nodes of these versions: two snapshots of two indices.
func TestDecodeRealRoots(t *testing.T) {
	for _, engine := range []string{"elasticsearch-7.10.2", "opensearch-1.3.20", "opensearch-2.19.0", "opensearch-3.7.0"} {
		t.Run(engine, func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join("testdata", engine+".json"))
			if err != nil {
				t.Fatal(err)
			}
			root, err := DecodeRoot(content)
			if err != nil {
				t.Fatal(err)
			}
			_, version, _ := strings.Cut(engine, "-")
			if len(root.Snapshots) != 2 || len(root.Indices) != 2 || len(root.IndexMetadataIdentifiers) == 0 {
				t.Fatalf("%+v", root)
			}
			wantVersion := map[string]string{"elasticsearch-7.10.2": "7.9.0", "opensearch-1.3.20": "7.9.0"}[engine]
			if root.MinVersion != wantVersion {
				t.Errorf("min_version %q, want %q", root.MinVersion, wantVersion)
			}
			for _, name := range []string{"ferry-r0001", "ferry-r0002"} {
				s, ok := root.Snapshot(name, "")
				if other, found := root.Snapshot(name, "another"); found {
					t.Errorf("%s under another uuid: %+v", name, other)
				}
				if !ok || s.State != StateSuccess || s.Version != version {
					t.Fatalf("%s: %+v %v", name, s, ok)
				}
				held := root.IndicesOf(s.UUID)
				if len(held) != 2 || held[0].Name != "catalogue" || held[1].Name != "logs" {
					t.Fatalf("%s holds %+v", name, held)
				}
				for _, index := range held {
					key := s.IndexMetadata[index.ID]
					if key == "" || root.IndexMetadataIdentifiers[key] == "" {
						t.Errorf("%s: no metadata of %s: %q", name, index.Name, key)
					}
				}
			}
			if logs := root.Indices[1]; len(logs.ShardGenerations) != 2 || slices.Contains(logs.ShardGenerations, "") || logs.ShardPathType != PathFixed {
				t.Errorf("%+v", logs)
			}
		})
	}
}

// The shapes of older versions, as their writers are documented; no node of these versions wrote them.
func TestDecodeOldRoots(t *testing.T) {
	for name, document := range map[string]string{
		"5.5": `{"snapshots":[{"name":"s","uuid":"u"}],"indices":{"i":{"id":"x","snapshots":["u"]}}}`,
		"6.8": `{"snapshots":[{"name":"s","uuid":"u","state":1,"version":"6.8.0"}],"indices":{"i":{"id":"x","snapshots":["u"]}}}`,
		"7.6": `{"min_version":"7.6.0","snapshots":[{"name":"s","uuid":"u","state":1,"version":"7.6.0"}],
		        "indices":{"i":{"id":"x","snapshots":["u"],"shard_generations":["g",null]}}}`,
		"hashed": `{"snapshots":[{"name":"s","uuid":"u","state":1}],"indices":{"i":{"id":"x","snapshots":["u"],"shard_path_type":1}},"new_field":{}}`,
		"none":   `{"snapshots":[],"indices":{}}`,
	} {
		root, err := DecodeRoot([]byte(document))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s, ok := root.Snapshot("s", "")
		if name == "none" {
			if ok {
				t.Error("a snapshot in an empty repository")
			}
			continue
		}
		wantState := StateSuccess
		if name == "5.5" {
			wantState = StateUnknown
		}
		if !ok || s.State != wantState || len(root.IndicesOf("u")) != 1 || root.Indices[0].ID != "x" {
			t.Errorf("%s: %+v", name, root)
		}
		if name == "7.6" && !slices.Equal(root.Indices[0].ShardGenerations, []string{"g", ""}) {
			t.Errorf("%s: %+v", name, root.Indices[0])
		}
		if name == "hashed" && root.Indices[0].ShardPathType != PathHashedPrefix {
			t.Errorf("%s: %+v", name, root.Indices[0])
		}
	}
}

func TestDecodeRootRefuses(t *testing.T) {
	for name, document := range map[string]string{
		"empty":          ``,
		"cut":            `{"snapshots":[{"name":"s"`,
		"not an object":  `[]`,
		"no snapshots":   `{"indices":{}}`,
		"no indices":     `{"snapshots":[]}`,
		"unknown uuid":   `{"snapshots":[],"indices":{"i":{"id":"x","snapshots":["u"]}}}`,
		"escaping id":    `{"snapshots":[],"indices":{"i":{"id":"../x","snapshots":[]}}}`,
		"no id":          `{"snapshots":[],"indices":{"i":{"snapshots":[]}}}`,
		"escaping uuid":  `{"snapshots":[{"name":"s","uuid":".."}],"indices":{}}`,
		"no uuid":        `{"snapshots":[{"name":"s"}],"indices":{}}`,
		"no name":        `{"snapshots":[{"uuid":"u"}],"indices":{}}`,
		"uuid twice":     `{"snapshots":[{"name":"s","uuid":"u"},{"name":"t","uuid":"u"}],"indices":{}}`,
		"5.0, by object": `{"snapshots":[{"name":"s","uuid":"u"}],"indices":{"i":{"id":"x","snapshots":[{"name":"s","uuid":"u"}]}}}`,
		"state as text":  `{"snapshots":[{"name":"s","uuid":"u","state":"SUCCESS"}],"indices":{}}`,
		"bottomless":     strings.Repeat("[", 100_000),
		"twice":          `{"snapshots":[],"indices":{}} {}`,
	} {
		if root, err := DecodeRoot([]byte(document)); err == nil {
			t.Errorf("%s is read as %+v", name, root)
		} else if len(err.Error()) > 500 {
			t.Errorf("%s: the message has %d characters", name, len(err.Error()))
		}
	}
	if _, err := DecodeRoot(make([]byte, MaxRootSize+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("too large: %v", err)
	}
}

func FuzzDecodeRoot(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte(`{"snapshots":[null],"indices":{"":null}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		root, err := DecodeRoot(content)
		if err != nil {
			return
		}
		for _, s := range root.Snapshots {
			if _, ok := root.Snapshot(s.Name, s.UUID); !ok {
				t.Errorf("snapshot %q is not found again", s.Name)
			}
			root.IndicesOf(s.UUID)
			_ = s.State.String()
		}
		for _, i := range root.Indices {
			if key := "indices/" + i.ID + "/0/__x"; Classify(key) != Data && !strings.Contains(i.ID, "tests-") {
				t.Errorf("the id %q leads to %q, which is no data", i.ID, key)
			}
		}
	})
}

func FuzzClassify(f *testing.F) {
	for _, key := range []string{"index-1", "indices/a/0/__x", "a/indices/b/1/snap-c.dat", "tests-a/b", "//", "index-00"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if class := Classify(key); (class == RootIndex || class == RootLatest) && strings.Contains(key, "/") {
			t.Errorf("%q, not at the root, is %s", key, class)
		}
		if n, ok := ParseRootName(key); ok && RootName(n) != key {
			t.Errorf("%q is generation %d, which is %q", key, n, RootName(n))
		}
	})
}

func FuzzLatest(f *testing.F) {
	f.Add(EncodeLatest(3))
	f.Fuzz(func(t *testing.T, content []byte) {
		if n, err := DecodeLatest(content); err == nil && !bytes.Equal(EncodeLatest(n), content) {
			t.Errorf("%v is %d, which is %v", content, n, EncodeLatest(n))
		}
	})
}
