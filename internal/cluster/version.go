package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// The distributions.
const (
	Elasticsearch = "elasticsearch"
	OpenSearch    = "opensearch"
)

// Version says what engine a cluster runs.
type Version struct {
	Distribution        string // Elasticsearch or OpenSearch
	Number              string // "2.19.0"
	Major, Minor, Patch int
	ClusterName         string
	ClusterUUID         string
}

// String returns for example "opensearch-2.19.0".
func (v Version) String() string { return v.Distribution + "-" + v.Number }

// AtLeast reports whether v has what major.minor of distribution brought. OpenSearch was forked from Elasticsearch 7.10, so it
// counts as Elasticsearch up to 7.10; no Elasticsearch counts as OpenSearch.
func (v Version) AtLeast(distribution string, major, minor int) bool {
	if v.Distribution == distribution {
		return v.Major > major || v.Major == major && v.Minor >= minor
	}
	return v.Distribution == OpenSearch && distribution == Elasticsearch && (major < 7 || major == 7 && minor <= 10)
}

// Info asks the cluster who it is. An OpenSearch whose compatibility override (compatibility.override_main_response_version)
// makes it say 7.10.2 is asked for its nodes' versions instead; the oldest one counts.
func (c *Client) Info(ctx context.Context) (Version, error) {
	const op = "ask for the version"
	var a struct {
		ClusterName string `json:"cluster_name"`
		ClusterUUID string `json:"cluster_uuid"`
		Tagline     string `json:"tagline"`
		Version     struct {
			Distribution string `json:"distribution"`
			Number       string `json:"number"`
		} `json:"version"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: "/", limit: smallAnswer}, &a); err != nil {
		return Version{}, err
	}
	v := Version{Distribution: Elasticsearch, ClusterName: a.ClusterName, ClusterUUID: a.ClusterUUID}
	// With the override on, OpenSearch leaves version.distribution out; its tagline still tells.
	if a.Version.Distribution == OpenSearch || strings.Contains(a.Tagline, "OpenSearch") {
		v.Distribution = OpenSearch
	}
	if err := v.setNumber(a.Version.Number); err != nil {
		return Version{}, fault.New(fault.Unclassified, op, c.endpoint, err).
			WithHint("Check that the endpoint is that of an Elasticsearch or OpenSearch domain, not of Dashboards or a proxy's page.")
	}
	if v.Distribution == OpenSearch && v.Major == 7 {
		real, err := c.oldestNode(ctx, v)
		if err != nil {
			return Version{}, err
		}
		v = real
	}
	c.mu.Lock()
	c.version = &v
	c.mu.Unlock()
	return v, nil
}

func (c *Client) oldestNode(ctx context.Context, reported Version) (Version, error) {
	const op = "ask for the nodes' versions"
	var a struct {
		Nodes map[string]struct {
			Version string `json:"version"`
		} `json:"nodes"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: "/_nodes", query: values("filter_path", "nodes.*.version")}, &a); err != nil {
		return Version{}, err
	}
	var oldest *Version
	for _, n := range a.Nodes {
		v := reported
		if v.setNumber(n.Version) != nil {
			continue
		}
		if oldest == nil || oldest.AtLeast(OpenSearch, v.Major, v.Minor) {
			oldest = &v
		}
	}
	if oldest == nil {
		return Version{}, fault.Newf(fault.Unclassified, op, c.endpoint,
			"the cluster says that it is OpenSearch %s (compatibility override) and no node tells its real version", reported.Number).
			WithHint("Set compatibility.override_main_response_version to false on the domain (Amazon: advanced option override_main_response_version).")
	}
	return *oldest, nil
}

func (v *Version) setNumber(number string) error {
	core, _, _ := strings.Cut(number, "-") // "3.0.0-alpha1", "2.19.0-SNAPSHOT"
	parts := strings.Split(core, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return fmt.Errorf("%q is not a version number", excerpt(number, 40))
	}
	n := make([]int, 3)
	for i := range min(len(parts), 3) {
		x, err := strconv.Atoi(parts[i])
		if err != nil || x < 0 {
			return fmt.Errorf("%q is not a version number", excerpt(number, 40))
		}
		n[i] = x
	}
	v.Number, v.Major, v.Minor, v.Patch = number, n[0], n[1], n[2]
	return nil
}

// engine returns the version. Of callers that come at the same time one asks and the others wait for its answer; when that one fails,
// the next one asks, because the failure may have been its own (a context that ended).
func (c *Client) engine(ctx context.Context) (Version, error) {
	for {
		c.mu.Lock()
		if known := c.version; known != nil {
			c.mu.Unlock()
			return *known, nil
		}
		asked := c.asking
		if asked == nil {
			c.asking = make(chan struct{})
		}
		c.mu.Unlock()
		if asked == nil {
			v, err := c.Info(ctx)
			c.mu.Lock()
			close(c.asking)
			c.asking = nil
			c.mu.Unlock()
			return v, err
		}
		select {
		case <-asked:
		case <-ctx.Done():
			return Version{}, fault.Newf(fault.Unavailable, "ask for the version", c.endpoint, "not sent: %w", ctx.Err())
		}
	}
}

// openSearchMask marks OpenSearch version ids (org.opensearch.Version.MASK).
const openSearchMask = 0x08000000

// DecodeCreatedVersion decodes the version id of the setting index.version.created: Elasticsearch 7100299 is 7.10.2, OpenSearch
// 136407827 is 2.19.0 (major, minor, revision, build as decimal pairs, XORed with 0x08000000). Elasticsearch from 8.11 on
// numbers its index versions otherwise (8,500,000 and up); those are refused, as is everything else that is no such id.
func DecodeCreatedVersion(id string) (distribution string, major, minor, patch int, err error) {
	n, err := strconv.Atoi(strings.TrimSpace(id))
	if err != nil || n <= 0 {
		return "", 0, 0, 0, fmt.Errorf("%q is not a version id of index.version.created", excerpt(id, 40))
	}
	distribution = Elasticsearch
	if n&openSearchMask != 0 {
		distribution, n = OpenSearch, n^openSearchMask
	}
	major, minor, patch = n/1_000_000, n/10_000%100, n/100%100
	if major == 0 || major > 99 || distribution == Elasticsearch && n >= 8_500_000 {
		return "", 0, 0, 0, fmt.Errorf("%q is a version id that Domain Ferry does not know", excerpt(id, 40))
	}
	return distribution, major, minor, patch, nil
}
