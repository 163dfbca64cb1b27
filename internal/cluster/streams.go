package cluster

import (
	"cmp"
	"context"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// DataStream is a data stream with its backing indices, the write index last.
type DataStream struct {
	Name    string
	Indices []string
}

// resolved is the answer of _resolve/index.
type resolved struct {
	Indices []struct {
		Name string `json:"name"`
	} `json:"indices"`
	Aliases []struct {
		Name string `json:"name"`
	} `json:"aliases"`
	DataStreams []struct {
		Name    string   `json:"name"`
		Indices []string `json:"backing_indices"`
	} `json:"data_streams"`
}

// DataStreams lists the data streams by name; none on engines that have no such thing. Amazon's list of operations leaves _data_stream
// out; where it is not offered, _resolve/index is asked, which is in the list.
func (c *Client) DataStreams(ctx context.Context) ([]DataStream, error) {
	const op = "list data streams"
	version, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	if !version.AtLeast(Elasticsearch, 7, 9) {
		return nil, nil
	}
	var a struct {
		DataStreams []struct {
			Name    string `json:"name"`
			Indices []struct {
				Name string `json:"index_name"`
			} `json:"indices"`
		} `json:"data_streams"`
	}
	var streams []DataStream
	err = c.do(ctx, call{op: op, method: "GET", path: "/_data_stream"}, &a)
	f, refused := fault.As(err)
	switch {
	case err == nil:
		for _, s := range a.DataStreams {
			d := DataStream{Name: s.Name}
			for _, i := range s.Indices {
				d.Indices = append(d.Indices, i.Name)
			}
			streams = append(streams, d)
		}
	case refused && f.Name == fault.RequestRefused:
		// Without the module, the engine takes "_data_stream" for an index name, or knows the path with other methods only.
		var a resolved
		if err := c.do(ctx, call{op: op, method: "GET", path: "/_resolve/index/*", query: values("expand_wildcards", "all")}, &a); err != nil {
			return nil, err
		}
		for _, s := range a.DataStreams {
			// By generation, which the names end with.
			slices.SortFunc(s.Indices, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
			streams = append(streams, DataStream(s))
		}
	default:
		return nil, err
	}
	slices.SortFunc(streams, func(a, b DataStream) int { return cmp.Compare(a.Name, b.Name) })
	return streams, nil
}

// DeleteDataStream deletes a data stream with all of its backing indices. One that does not exist is no error. fault.Busy while one of
// its indices is being snapshotted.
func (c *Client) DeleteDataStream(ctx context.Context, name string) error {
	op := "delete data stream " + excerpt(name, 255)
	if err := c.checkNames(op, []string{name}); err != nil {
		return err
	}
	err := c.change(ctx, call{op: op, method: "DELETE", path: "/_data_stream/" + url.PathEscape(name)})
	if isMissing(err, "index_not_found_exception") {
		return nil
	}
	if f, ok := fault.As(err); ok && endpointRefused(err) {
		return f.WithHint("Delete the data stream %s by hand at %s, then redrive the execution: nothing else frees the names of its indices.", excerpt(name, 255), c.endpoint)
	}
	return err
}

// Holder says what has the name: "index", "alias", "data stream", or "" when nothing has it. For engines from Elasticsearch 7.9 on.
func (c *Client) Holder(ctx context.Context, name string) (string, error) {
	const op = "look what has a name"
	if err := c.checkNames(op, []string{name}); err != nil {
		return "", err
	}
	var a resolved
	err := c.do(ctx, call{op: op, method: "GET", path: "/_resolve/index/" + url.PathEscape(name), query: values("expand_wildcards", "all")}, &a)
	switch {
	case isMissing(err, "index_not_found_exception"):
		return "", nil
	case err != nil:
		return "", err
	case len(a.DataStreams) > 0:
		return "data stream", nil
	case len(a.Aliases) > 0:
		return "alias", nil
	case len(a.Indices) > 0:
		return "index", nil
	}
	return "", nil
}

// WithoutTemplate returns those of the data streams that no index template of the cluster is for; they take writes and cannot roll over.
// known is false where the templates cannot be seen (Amazon's list of operations has _index_template for Elasticsearch only).
func (c *Client) WithoutTemplate(ctx context.Context, streams ...string) (without []string, known bool, err error) {
	var a struct {
		Templates []struct {
			Template struct {
				Patterns   []string `json:"index_patterns"`
				Priority   int64    `json:"priority"`
				DataStream any      `json:"data_stream"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}
	err = c.do(ctx, call{op: "list index templates", method: "GET", path: "/_index_template"}, &a)
	if f, ok := fault.As(err); ok && (f.Name == fault.RequestRefused || f.Name == fault.AccessDenied) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, name := range streams {
		best, found := int64(-1), false
		for _, t := range a.Templates {
			matches := slices.ContainsFunc(t.Template.Patterns, func(p string) bool {
				ok, _ := path.Match(strings.NewReplacer("[", `\[`, "]", `\]`, "?", `\?`, `\`, `\\`).Replace(p), name)
				return ok
			})
			if matches && t.Template.Priority > best {
				best, found = t.Template.Priority, t.Template.DataStream != nil
			}
		}
		if !found {
			without = append(without, name)
		}
	}
	return without, true, nil
}

// writeIndices is the refusal to block the write index of a data stream.
var writeIndices = regexp.MustCompile(`cannot add a block to the following data stream write indices`)

func refusesWriteIndices(err error) bool {
	f, ok := fault.As(err)
	return ok && f.Name == fault.RequestRefused && writeIndices.MatchString(f.Error())
}
