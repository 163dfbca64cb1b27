package faultmatrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
)

// clients watches what the writer's requests are answered, index by index.
type clients struct {
	mu       sync.Mutex
	refused  map[string]time.Time // by a write block, last
	accepted map[string]time.Time // first since
}

// watched is the way to one domain.
type watched struct {
	*clients
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper. A request of the writer is about one index.
func (c watched) RoundTrip(r *http.Request) (*http.Response, error) {
	index := ""
	if r.URL.Path == "/_bulk" && r.GetBody != nil {
		if body, err := r.GetBody(); err == nil {
			index = indexOf(body)
		}
	}
	resp, err := c.next.RoundTrip(r)
	if err != nil || index == "" {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := time.Now(); {
	case bytes.Contains(body, []byte("cluster_block_exception")):
		c.refused[index] = now
		delete(c.accepted, index)
	case resp.StatusCode == http.StatusOK && c.accepted[index].IsZero():
		c.accepted[index] = now
	}
	return resp, nil
}

func indexOf(body io.Reader) string {
	var action map[string]struct {
		Index string `json:"_index"`
	}
	if json.NewDecoder(body).Decode(&action) != nil {
		return ""
	}
	for _, a := range action {
		return a.Index
	}
	return ""
}

// writable says whether every index that refused writes has taken one since, and when the last of them did; zero when none refused any.
func (c *clients) writable() (bool, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last time.Time
	for index := range c.refused {
		at, ok := c.accepted[index]
		if !ok {
			return false, last
		}
		if at.After(last) {
			last = at
		}
	}
	return true, last
}

// settings is what must be as before, as a flat list: path -> value.
type settings map[string]string

// look reads the settings of a domain, not through its front door: cluster settings, and with indices their settings, mappings and aliases,
// templates, pipelines and data streams.
func look(ctx context.Context, side *environment.Side, indices bool) (settings, error) {
	found := settings{}
	paths := []string{"/_cluster/settings?flat_settings=true"}
	if indices {
		paths = append(paths, "/_settings?flat_settings=true&expand_wildcards=all", "/_mapping?expand_wildcards=all", "/_alias?expand_wildcards=all",
			"/_template?flat_settings=true", "/_index_template?flat_settings=true", "/_ingest/pipeline", "/_plugins/_ism/policies")
	}
	for _, path := range paths {
		var answer any
		if err := get(ctx, side.Direct+path, &answer); err != nil {
			if refused, ok := errors.AsType[refusal](err); ok && optional(path) && refused.status < http.StatusInternalServerError {
				continue // there are none, or this engine has no such thing
			}
			return nil, err
		}
		flatten(strings.SplitN(path, "?", 2)[0], answer, found)
	}
	return found, nil
}

// optional paths are of what an engine may not have.
func optional(path string) bool {
	return strings.HasPrefix(path, "/_template") || strings.HasPrefix(path, "/_index_template") || strings.HasPrefix(path, "/_ingest") || strings.HasPrefix(path, "/_plugins")
}

// refusal is an answer that is no success.
type refusal struct {
	text   string
	status int
}

func (r refusal) Error() string { return r.text }

func get(ctx context.Context, url string, out any) error {
	return request(ctx, http.MethodGet, url, "", out)
}

func request(ctx context.Context, method, url, body string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return refusal{fmt.Sprintf("%s %s answered %d: %.300s", method, url, resp.StatusCode, answer), resp.StatusCode}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func flatten(prefix string, v any, into settings) {
	m, ok := v.(map[string]any)
	if !ok {
		into[prefix] = fmt.Sprint(v)
		return
	}
	for k, x := range m {
		flatten(prefix+" "+k, x, into)
	}
}

// differences lists what is not as it was, without what may differ.
func (before settings) differences(now settings, may func(path string) bool) (list []string) {
	all := maps.Clone(before)
	maps.Copy(all, now)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if a, b := before[path], now[path]; a != b && !may(path) {
			list = append(list, fmt.Sprintf("%s was %q, is %q", path, a, b))
		}
	}
	return list
}

// ended says what the journal still holds that must not be there after the end of an execution; nothing when all is well.
func ended(ctx context.Context, env *environment.Environment, migration string) (f journal.Freeze, found bool, problems []string, err error) {
	store := env.Journal()
	leases, err := store.Leases(ctx)
	if err != nil {
		return f, false, nil, err
	}
	for _, l := range leases {
		if l.EndedAt.IsZero() {
			problems = append(problems, fmt.Sprintf("a lease is left: %s has %s", l.Execution, l.Endpoint))
		}
	}
	j := store.Migration(migration)
	undo, err := j.UndoLog(ctx)
	if err != nil {
		return f, false, nil, err
	}
	for _, u := range undo {
		if u.Outstanding() {
			problems = append(problems, fmt.Sprintf("not undone: %s at %s", u.Setting, u.Endpoint))
		}
	}
	f, found, err = j.Freeze(ctx)
	if err != nil {
		return f, false, nil, err
	}
	if found && f.State != journal.Thawed && (f.State != journal.HandedOver || f.SettledAt.IsZero()) {
		problems = append(problems, "the freeze is "+string(f.State))
	}
	return f, found, problems, nil
}

// block is the setting by which a source stays closed after a hand-over, on purpose.
const block = "index.blocks.write"

// compareSettings finds settings that are not as before. After a hand-over the source keeps its write block and what the undo log says
// to be kept on purpose, and the copies have the settings of their originals.
func compareSettings(ctx context.Context, env *environment.Environment, migration string, source, destination settings, handedOver bool) ([]string, error) {
	kept := map[string]bool{}
	if handedOver {
		undo, err := env.Journal().Migration(migration).UndoLog(ctx)
		if err != nil {
			return nil, err
		}
		for _, u := range undo {
			if u.Endpoint == env.Source.Door.URL() && u.LeftAlone != "" && !strings.Contains(u.LeftAlone, "somebody else") {
				kept["/_cluster/settings persistent "+u.Setting] = true
			}
		}
	}
	nowSource, err := look(ctx, env.Source, true)
	if err != nil {
		return nil, err
	}
	nowDestination, err := look(ctx, env.Destination, handedOver)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, d := range source.differences(nowSource, func(path string) bool { return kept[path] || handedOver && strings.HasSuffix(path, block) }) {
		list = append(list, "source: "+d)
	}
	isIndex := func(path string) bool { return !strings.HasPrefix(path, "/_cluster/settings ") }
	ofIndices := func(path string) bool {
		return strings.HasPrefix(path, "/_settings ") || strings.HasPrefix(path, "/_mapping ") || strings.HasPrefix(path, "/_alias ")
	}
	for _, d := range destination.differences(nowDestination, isIndex) {
		list = append(list, "destination: "+d)
	}
	if handedOver {
		own := func(path string) bool { return !ofIndices(path) || ownOfCopies(path) }
		for _, d := range source.differences(nowDestination, own) {
			list = append(list, "copy: "+d)
		}
	}
	return list, nil
}

// ownOfCopies are the paths in which a restored index differs from its original by its nature.
func ownOfCopies(path string) bool {
	for _, own := range []string{"index.uuid", "index.history.uuid", "index.version.created", "index.version.upgraded", "index.creation_date", "index.provided_name",
		"index.replication.type", "index.routing.allocation.include._tier_preference", "index.resize", "index.restore"} {
		if strings.Contains(path, " "+own) {
			return true
		}
	}
	return false
}
