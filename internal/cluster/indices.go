package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// Index is one index of a cluster, hidden and closed ones included.
type Index struct {
	Name           string
	UUID           string
	Health         string // "green", "yellow", "red"; empty for closed indices of old engines
	Open           bool
	Hidden         bool
	Primaries      int
	Replicas       int
	Docs           int64             // as Lucene counts, nested documents included; 0 for closed indices
	StoreBytes     int64             // primaries only; 0 for closed indices
	CreatedVersion string            // the id in index.version.created, for DecodeCreatedVersion
	Settings       map[string]string // flat; lists are joined by commas
}

// Indices lists all indices by name.
func (c *Client) Indices(ctx context.Context) ([]Index, error) {
	const op = "list the indices"
	version, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	query := values("format", "json", "bytes", "b", "h", "health,status,index,uuid,pri,rep,docs.count,pri.store.size")
	// Before 7.7 there are no hidden indices, and _cat/indices lists open and closed ones by itself.
	if version.AtLeast(Elasticsearch, 7, 7) {
		query.Set("expand_wildcards", "all")
	}
	// The two answers are made at different moments; when an index came or went in between, both are asked for again.
	for range 3 {
		var rows []map[string]any
		if err := c.do(ctx, call{op: op, method: "GET", path: "/_cat/indices", query: query}, &rows); err != nil {
			return nil, err
		}
		settings, err := c.settingsOf(ctx, op, "/_all", "all")
		if err != nil {
			return nil, err
		}
		indices, ok, err := joinIndices(rows, settings)
		if err != nil {
			return nil, fault.New(fault.Unclassified, op, c.endpoint, err)
		}
		if ok {
			return indices, nil
		}
	}
	return nil, fault.Newf(fault.Unavailable, op, c.endpoint, "indices were created or deleted while they were listed, three times in a row").
		WithHint("Redrive the execution; if this persists, stop what creates and deletes indices all the time.")
}

// maxPrimaries is more primary shards than an index can have: the engines' own limit is 1,024 unless their nodes are started with
// another (es.index.max_number_of_shards).
const maxPrimaries = 1 << 16

// joinIndices joins the two answers; ok is false when they are not of the same indices.
func joinIndices(rows []map[string]any, settings map[string]map[string]string) (indices []Index, ok bool, err error) {
	indices = make([]Index, 0, len(rows))
	for _, row := range rows {
		name := text(row["index"])
		if !plainName(name) {
			return nil, false, fmt.Errorf("%q is not a name that an index can have", excerpt(name, 80))
		}
		flat, ok := settings[name]
		if !ok {
			return nil, false, nil
		}
		uuid := text(row["uuid"])
		if known := flat["index.uuid"]; known != "" && uuid != "" && known != uuid {
			return nil, false, nil
		}
		var n numbers
		indices = append(indices, Index{
			Name: name, UUID: cmp.Or(uuid, flat["index.uuid"]), Health: text(row["health"]),
			Open: text(row["status"]) != "close", Hidden: flat["index.hidden"] == "true",
			Primaries: int(n.read(cmp.Or(text(row["pri"]), flat["index.number_of_shards"]))),
			Replicas:  int(n.read(cmp.Or(text(row["rep"]), flat["index.number_of_replicas"]))),
			Docs:      n.read(text(row["docs.count"])), StoreBytes: n.read(text(row["pri.store.size"])),
			CreatedVersion: flat["index.version.created"], Settings: flat,
		})
		if p := indices[len(indices)-1].Primaries; n.err == nil && p > maxPrimaries {
			n.err = fmt.Errorf("%d primary shards", p)
		}
		if n.err != nil {
			return nil, false, fmt.Errorf("index %s: %w", excerpt(name, 255), n.err)
		}
	}
	slices.SortFunc(indices, func(a, b Index) int { return cmp.Compare(a.Name, b.Name) })
	return indices, len(indices) == len(settings), nil
}

// settingsOf reads settings in the flat form; where says which indices, as an escaped path.
func (c *Client) settingsOf(ctx context.Context, op, where, expand string) (map[string]map[string]string, error) {
	query := values("flat_settings", "true")
	if expand != "" {
		query.Set("expand_wildcards", expand)
	}
	var a map[string]struct {
		Settings map[string]any `json:"settings"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: where + "/_settings", query: query}, &a); err != nil {
		return nil, err
	}
	out := make(map[string]map[string]string, len(a))
	for index, s := range a {
		flat := make(map[string]string, len(s.Settings))
		flatten("", s.Settings, flat, 0)
		out[index] = flat
	}
	return out, nil
}

// IndexSettings returns the flat settings of each index, defaults left out.
func (c *Client) IndexSettings(ctx context.Context, indices ...string) (map[string]map[string]string, error) {
	if len(indices) == 0 {
		return nil, nil
	}
	const op = "read index settings"
	out := make(map[string]map[string]string, len(indices))
	err := c.chunked(op, indices, func(path string, _ []string) error {
		part, err := c.settingsOf(ctx, op, path, "")
		maps.Copy(out, part)
		return err
	})
	return out, err
}

// UpdateSettings sets index settings, flat keys; a nil value removes a setting.
func (c *Client) UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error {
	const op = "update index settings"
	return c.chunked(op, indices, func(path string, part []string) error {
		return c.change(ctx, call{op: op + " of " + listed(part), method: "PUT", path: path + "/_settings", body: settings})
	})
}

// AddWriteBlock blocks writes to the indices (index.blocks.write). By _block, which engines from 7.9 on have, it returns once writes
// in flight are done; where the engine or the service refuses that endpoint, the setting is put instead, and in-flight writes may
// still end after the call. That goes for the write index of a data stream too, which no engine blocks by _block. Blocking a blocked
// index is no error. Remove the block with UpdateSettings.
func (c *Client) AddWriteBlock(ctx context.Context, indices ...string) error {
	const op = "block writes"
	version, err := c.engine(ctx)
	if err != nil {
		return err
	}
	// An engine without _block takes "_block" for a document type.
	if !version.AtLeast(Elasticsearch, 7, 9) {
		return c.UpdateSettings(ctx, map[string]any{"index.blocks.write": true}, indices...)
	}
	return c.chunked(op, indices, func(path string, part []string) error {
		refusal := c.block(ctx, op, path, part)
		if !refusesWriteIndices(refusal) {
			return refusal
		}
		streams, err := c.DataStreams(ctx)
		if err != nil {
			return err
		}
		var writers []string
		for _, s := range streams {
			if n := len(s.Indices); n > 0 && slices.Contains(part, s.Indices[n-1]) {
				writers = append(writers, s.Indices[n-1])
			}
		}
		if len(writers) == 0 {
			return refusal
		}
		if err := c.UpdateSettings(ctx, map[string]any{"index.blocks.write": true}, writers...); err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(part), func(name string) bool { return slices.Contains(writers, name) })
		if len(rest) == 0 {
			return nil
		}
		return c.chunked(op, rest, func(path string, part []string) error { return c.block(ctx, op, path, part) })
	})
}

// block blocks writes to part, whose escaped path is given, by _block where that is offered.
func (c *Client) block(ctx context.Context, op, path string, part []string) error {
	var a struct {
		acknowledgement
		Indices []struct {
			Name    string `json:"name"`
			Blocked *bool  `json:"blocked"`
		} `json:"indices"`
	}
	op += " to " + listed(part)
	err := c.do(ctx, call{op: op, method: "PUT", path: path + "/_block/write", mutating: true}, &a)
	if endpointRefused(err) {
		return c.UpdateSettings(ctx, map[string]any{"index.blocks.write": true}, part...)
	}
	if err != nil {
		return err
	}
	for _, i := range a.Indices {
		if i.Blocked != nil && !*i.Blocked {
			return fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "index %s is not blocked on all of its shards yet", excerpt(i.Name, 255))
		}
	}
	return c.acknowledged(op, a.acknowledgement)
}

// CannotClose reports whether a refusal of Close says that the domain does not offer it at all (Amazon before Elasticsearch 7.4).
func CannotClose(err error) bool { return endpointRefused(err) }

// endpointRefused reports whether the endpoint itself does not exist or is not offered, as against a refusal of what was asked.
func endpointRefused(err error) bool {
	f, ok := fault.As(err)
	if !ok || f.Name != fault.RequestRefused {
		return false
	}
	if f.Status == 405 {
		return true
	}
	return !HasType(err, "index_not_found_exception", "cluster_block_exception", "illegal_argument_exception") &&
		unofferedEndpoint.MatchString(f.Error())
}

var unofferedEndpoint = regexp.MustCompile(`(?i)is not allowed|no handler found|incorrect HTTP method|request body is required`)

// Close closes the indices (Amazon: from 7.4 on). Closing a closed index is no error. fault.Busy while one of them is being
// snapshotted or restored. A closed index takes no part in the answers about documents.
func (c *Client) Close(ctx context.Context, indices ...string) error {
	const op = "close"
	return c.chunked(op, indices, func(path string, part []string) error {
		var a struct {
			acknowledgement
			Indices map[string]struct {
				Closed *bool `json:"closed"`
			} `json:"indices"`
		}
		op := op + " " + listed(part)
		if err := c.do(ctx, call{op: op, method: "POST", path: path + "/_close", mutating: true}, &a); err != nil {
			return err
		}
		var open []string
		for name, i := range a.Indices {
			if i.Closed != nil && !*i.Closed {
				open = append(open, excerpt(name, 255))
			}
		}
		if len(open) > 0 {
			return fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "the cluster could not close %s yet", listed(open))
		}
		return c.acknowledged(op, a.acknowledgement)
	})
}

// Open opens the indices. It does not wait until their shards are started.
func (c *Client) Open(ctx context.Context, indices ...string) error {
	return c.chunked("open", indices, func(path string, part []string) error {
		return c.change(ctx, call{op: "open " + listed(part), method: "POST", path: path + "/_open", query: values("wait_for_active_shards", "0")})
	})
}

// CreateIndex makes an index with flat settings and a mappings object. It does not wait until its shards are started. What the engine
// does not accept of them is fault.RequestRefused.
func (c *Client) CreateIndex(ctx context.Context, index string, settings map[string]any, mappings json.RawMessage) error {
	version, err := c.engine(ctx)
	if err != nil {
		return err
	}
	query := values("wait_for_active_shards", "0")
	if typed(version) {
		query.Set("include_type_name", "false")
	}
	return c.chunked("create index", []string{index}, func(path string, part []string) error {
		body := map[string]any{"settings": settings, "mappings": mappings}
		return c.change(ctx, call{op: "create index " + part[0], method: "PUT", path: path, query: query, body: body})
	})
}

// typed reports whether the engine gives and takes mappings without a document type only when it is asked to.
func typed(v Version) bool { return v.Distribution == Elasticsearch && v.Major == 6 && v.Minor >= 7 }

// DeleteIndex deletes one index with all of its documents. An index that does not exist is no error.
func (c *Client) DeleteIndex(ctx context.Context, index string) error {
	return c.chunked("delete index", []string{index}, func(path string, part []string) error {
		err := c.change(ctx, call{op: "delete index " + part[0], method: "DELETE", path: path})
		if isMissing(err, "index_not_found_exception") {
			return nil
		}
		return err
	})
}

// Refresh makes what was written so far visible to searches and counts.
func (c *Client) Refresh(ctx context.Context, indices ...string) error {
	return c.chunked("refresh", indices, func(path string, part []string) error {
		var a struct {
			Shards shardOutcome `json:"_shards"`
		}
		op := "refresh " + listed(part)
		if err := c.do(ctx, call{op: op, method: "POST", path: path + "/_refresh"}, &a); err != nil {
			return err
		}
		return a.Shards.fault(op, c.endpoint)
	})
}

// shardOutcome is the "_shards" of an answer that is made of many shards' answers.
type shardOutcome struct {
	Total, Successful, Failed int
	Failures                  []struct {
		Index  string `json:"index"`
		Shard  int    `json:"shard"`
		Reason any    `json:"reason"`
	}
}

func (s shardOutcome) fault(op, target string) error {
	if s.Failed == 0 {
		return nil
	}
	why := ""
	if len(s.Failures) > 0 {
		f := s.Failures[0]
		reason, _ := json.Marshal(f.Reason)
		why = fmt.Sprintf("; shard %d of %s: %s", f.Shard, excerpt(f.Index, 255), excerpt(string(reason), 400))
	}
	return fault.Newf(fault.Unavailable, op, target, "%d of %d shards failed%s", s.Failed, s.Total, why)
}

// Mappings returns the mappings object of each index. On Elasticsearch 6.8 the document type is left out, so that the object
// compares with that of later engines.
func (c *Client) Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error) {
	if len(indices) == 0 {
		return nil, nil
	}
	const op = "read mappings"
	version, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]json.RawMessage, len(indices))
	err = c.chunked(op, indices, func(path string, _ []string) error {
		r := call{op: op, method: "GET", path: path + "/_mapping"}
		if typed(version) {
			r.query = values("include_type_name", "false")
		}
		var a map[string]struct {
			Mappings json.RawMessage `json:"mappings"`
		}
		r.opaque = 2
		if err := c.do(ctx, r, &a); err != nil {
			return err
		}
		for index, m := range a {
			if len(m.Mappings) == 0 || string(m.Mappings) == "null" {
				m.Mappings = json.RawMessage("{}")
			}
			out[index] = m.Mappings
		}
		return nil
	})
	return out, err
}

// Aliases returns each index's aliases with their definitions (filter, index_routing, search_routing, is_write_index, is_hidden).
// Indices without aliases are there with an empty map.
func (c *Client) Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error) {
	if len(indices) == 0 {
		return nil, nil
	}
	const op = "read aliases"
	out := make(map[string]map[string]json.RawMessage, len(indices))
	err := c.chunked(op, indices, func(path string, part []string) error {
		var a map[string]struct {
			Aliases map[string]json.RawMessage `json:"aliases"`
		}
		if err := c.do(ctx, call{op: op, method: "GET", path: path + "/_alias"}, &a); err != nil {
			return err
		}
		for _, index := range part {
			out[index] = map[string]json.RawMessage{}
			maps.Copy(out[index], a[index].Aliases)
		}
		return nil
	})
	return out, err
}

// AliasAction adds an alias to an index or removes it.
type AliasAction struct {
	Remove       bool
	Index, Alias string
	Definition   json.RawMessage // of an added alias, as Aliases returns it; empty or {} for a plain one
}

// UpdateAliases makes all the changes in one atomic step.
func (c *Client) UpdateAliases(ctx context.Context, actions []AliasAction) error {
	const op = "update aliases"
	if len(actions) == 0 {
		return nil
	}
	list := make([]map[string]any, 0, len(actions))
	for _, a := range actions {
		if err := c.checkNames(op, []string{a.Index}); err != nil {
			return err
		}
		if a.Alias == "" || strings.ContainsAny(a.Alias, "*,") {
			return fault.Newf(fault.InvalidInput, op, c.endpoint, "%q is not a plain alias name", excerpt(a.Alias, 80))
		}
		verb, fields := "remove", map[string]any{}
		if !a.Remove {
			verb = "add"
			if len(a.Definition) > 0 {
				if err := json.Unmarshal(a.Definition, &fields); err != nil || fields == nil {
					return fault.Newf(fault.InvalidInput, op, c.endpoint, "the definition of alias %s is not a JSON object", a.Alias)
				}
			}
		}
		fields["index"], fields["alias"] = a.Index, a.Alias
		list = append(list, map[string]any{verb: fields})
	}
	return c.change(ctx, call{op: op, method: "POST", path: "/_aliases", body: map[string]any{"actions": list}})
}

// isMissing reports whether err is a 404 that says that the thing itself does not exist.
func isMissing(err error, kind string) bool {
	r, ok := fault.As(err)
	return ok && r.Status == 404 && HasType(err, kind)
}

// flatten turns nested settings into flat keys and values into the text that the engines show for them.
func flatten(prefix string, v any, out map[string]string, depth int) {
	if depth > 32 {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for k, nested := range v {
			if prefix != "" {
				k = prefix + "." + k
			}
			flatten(k, nested, out, depth+1)
		}
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = text(item)
		}
		out[prefix] = strings.Join(parts, ",")
	case nil:
	default:
		out[prefix] = text(v)
	}
}

// text returns a JSON scalar as the engines write it; _cat sends numbers as strings on some versions and as null when unknown.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// numbers reads whole numbers that are not negative, as the engines write them into texts; nothing is 0. It keeps the first error.
type numbers struct{ err error }

func (n *numbers) read(s string) int64 {
	if s == "" {
		return 0
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if (err != nil || v < 0) && n.err == nil {
		n.err = fmt.Errorf("%q is not a number as it belongs there", excerpt(s, 40))
	}
	return v
}
