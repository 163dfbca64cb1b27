package cluster

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// Health is the state of a cluster as _cluster/health tells it.
type Health struct {
	Status              string // "green", "yellow" or "red"
	Nodes, DataNodes    int
	ActivePrimaryShards int
	ActiveShards        int
	RelocatingShards    int
	InitializingShards  int
	UnassignedShards    int
	PendingTasks        int
}

// Health asks for the state of the whole cluster.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var a struct {
		Status              string `json:"status"`
		Nodes               int    `json:"number_of_nodes"`
		DataNodes           int    `json:"number_of_data_nodes"`
		ActivePrimaryShards int    `json:"active_primary_shards"`
		ActiveShards        int    `json:"active_shards"`
		RelocatingShards    int    `json:"relocating_shards"`
		InitializingShards  int    `json:"initializing_shards"`
		UnassignedShards    int    `json:"unassigned_shards"`
		PendingTasks        int    `json:"number_of_pending_tasks"`
	}
	if err := c.do(ctx, call{op: "ask for the cluster's health", method: "GET", path: "/_cluster/health", limit: smallAnswer}, &a); err != nil {
		return Health{}, err
	}
	return Health(a), nil
}

// NodeDisk is the space on a data node's file systems that hold indices.
type NodeDisk struct {
	Name       string
	FreeBytes  int64 // available to the engine
	TotalBytes int64
}

// DiskFree asks for the disk space of the data nodes, by name. Nodes that do not tell theirs (Amazon redacts statistics) are left
// out, so that the answer may be shorter than the cluster, or empty.
func (c *Client) DiskFree(ctx context.Context) ([]NodeDisk, error) {
	type space struct {
		Total     int64 `json:"total_in_bytes"`
		Free      int64 `json:"free_in_bytes"`
		Available int64 `json:"available_in_bytes"`
	}
	var a struct {
		Nodes map[string]struct {
			Name  string   `json:"name"`
			Roles []string `json:"roles"`
			FS    struct {
				Total space   `json:"total"`
				Data  []space `json:"data"`
			} `json:"fs"`
		} `json:"nodes"`
	}
	if err := c.do(ctx, call{op: "ask for free disk space", method: "GET", path: "/_nodes/stats/fs"}, &a); err != nil {
		return nil, err
	}
	var disks []NodeDisk
	for id, n := range a.Nodes {
		if n.Roles != nil && !slices.ContainsFunc(n.Roles, func(r string) bool { return r == "data" || strings.HasPrefix(r, "data_") }) {
			continue
		}
		s := n.FS.Total
		if s.Total == 0 {
			for _, d := range n.FS.Data {
				s.Total, s.Free, s.Available = s.Total+d.Total, s.Free+d.Free, s.Available+d.Available
			}
		}
		if s.Total <= 0 {
			continue
		}
		if s.Available == 0 {
			s.Available = s.Free
		}
		if n.Name == "" {
			n.Name = id
		}
		disks = append(disks, NodeDisk{n.Name, s.Available, s.Total})
	}
	slices.SortFunc(disks, func(a, b NodeDisk) int { return cmp.Compare(a.Name, b.Name) })
	return disks, nil
}
