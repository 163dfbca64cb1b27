// Package node runs real Elasticsearch and OpenSearch nodes as child processes, for the rehearsal and for tests.
//
// A node is started from the engine's integ-test archive, which Maven fetches from its central repository (a ready archive named
// <engine>.zip in the folder named by DOMAIN_FERRY_NODES is preferred). The archive is unpacked once into a cache outside the
// build tree (CacheDir); each node then has a configuration, data, temporary and log folder of its own below Config.Dir.
//
// The engines refuse to run as root, so a caller that is root has its nodes run as the user "nobody". Everything that the node
// reads or writes must therefore be enterable by all; Start says which folder is not.
//
// Nothing outlives the caller: a node leads a process group of its own, Stop and Kill9 end the whole group, and on Linux the
// kernel kills the node when the caller dies in whatever way (see process_linux.go). On other systems a caller that is killed by
// SIGKILL leaves its nodes running.
package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The two distributions.
const (
	Elasticsearch = "elasticsearch"
	OpenSearch    = "opensearch"
)

// Engine is a distribution and a version, written "opensearch-2.19.0".
type Engine struct {
	Distribution string // Elasticsearch or OpenSearch
	Version      string // three numbers with dots
}

// requirement is what one engine needs to run. The Java ranges are those tried, not those that the vendors promise: up to 2.x the
// engines lean on the security manager, which Java 24 removed.
type requirement struct {
	engine           Engine
	minJava, maxJava int
}

var supported = []requirement{
	{Engine{Elasticsearch, "6.8.0"}, 11, 17},
	{Engine{Elasticsearch, "7.1.1"}, 11, 17},
	{Engine{Elasticsearch, "7.10.2"}, 11, 17},
	{Engine{OpenSearch, "1.3.20"}, 11, 17},
	{Engine{OpenSearch, "2.19.0"}, 11, 21},
	{Engine{OpenSearch, "3.7.0"}, 21, 99},
}

// Supported lists the engines that can be run, oldest first.
func Supported() []Engine {
	engines := make([]Engine, len(supported))
	for i, r := range supported {
		engines[i] = r.engine
	}
	return engines
}

// Parse reads the written form of an engine, such as "elasticsearch-7.10.2". An engine that is not supported is an error that
// lists those that are.
func Parse(s string) (Engine, error) {
	distribution, version, _ := strings.Cut(s, "-")
	e := Engine{distribution, version}
	if _, err := e.requirement(); err != nil {
		return Engine{}, err
	}
	return e, nil
}

// String returns the written form.
func (e Engine) String() string { return e.Distribution + "-" + e.Version }

func (e Engine) requirement() (requirement, error) {
	i := slices.IndexFunc(supported, func(r requirement) bool { return r.engine == e })
	if i < 0 {
		names := make([]string, len(supported))
		for j, r := range supported {
			names[j] = r.engine.String()
		}
		return requirement{}, fmt.Errorf("engine %q cannot be run here; choose one of %s", e, strings.Join(names, ", "))
	}
	return supported[i], nil
}

// before reports whether the engine is an Elasticsearch older than major.minor.
func (e Engine) before(major, minor int) bool {
	parts := strings.SplitN(e.Version, ".", 3)
	if e.Distribution != Elasticsearch || len(parts) < 2 {
		return false
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a < major || a == major && b < minor
}

// variable names an environment variable of the start script, whose prefix tells the distributions apart.
func (e Engine) variable(name string) string {
	if e.Distribution == Elasticsearch {
		return "ES_" + name
	}
	return "OPENSEARCH_" + name
}
