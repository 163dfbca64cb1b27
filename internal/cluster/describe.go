package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// Description is what an index is besides its documents.
type Description struct {
	UUID    string
	Aliases map[string]json.RawMessage
	// Digest changes with the mapping, the aliases, and the settings that a restore brings to a copy.
	Digest string
}

// notDescribed are settings that an engine gives each index, that change without anybody's doing, or that a migration sets itself.
var notDescribed = []string{
	"index.uuid", "index.creation_date", "index.provided_name", "index.version.", "index.history.", "index.verified_before_close",
	"index.number_of_replicas", "index.auto_expand_replicas", "index.refresh_interval", "index.blocks.", "index.routing.allocation.",
}

// Describe describes the indices in one request for many. Those that do not exist are refused as the engines refuse them.
func (c *Client) Describe(ctx context.Context, indices ...string) (map[string]Description, error) {
	const op = "read descriptions"
	out := make(map[string]Description, len(indices))
	if len(indices) == 0 {
		return out, nil
	}
	err := c.chunked(op, indices, func(path string, part []string) error {
		var a map[string]struct {
			Aliases  json.RawMessage `json:"aliases"`
			Mappings json.RawMessage `json:"mappings"`
			Settings json.RawMessage `json:"settings"`
		}
		if err := c.do(ctx, call{op: op, method: "GET", path: path, query: values("flat_settings", "true"), opaque: 2}, &a); err != nil {
			return err
		}
		for _, index := range part {
			x, ok := a[index]
			if !ok {
				return fault.Newf(fault.Unavailable, op, c.endpoint, "the answer does not speak of index %s", excerpt(index, 255))
			}
			d, flat := Description{}, map[string]string{}
			var settings map[string]any
			if err := errors.Join(unfoldPart(x.Aliases, &d.Aliases), unfoldPart(x.Settings, &settings)); err != nil {
				return fault.Newf(fault.Unavailable, op, c.endpoint, "index %s: %w", excerpt(index, 255), err)
			}
			flatten("", settings, flat, 0)
			d.UUID = flat["index.uuid"]
			for k := range flat {
				if slices.ContainsFunc(notDescribed, func(p string) bool { return strings.HasPrefix(k, p) }) {
					delete(flat, k)
				}
			}
			var err error
			if d.Digest, err = digest(x.Mappings, d.Aliases, flat); err != nil {
				return fault.New(fault.Unclassified, "digest the description of index "+index, c.endpoint, err)
			}
			out[index] = d
		}
		return nil
	})
	return out, err
}

// unfoldPart is unfold of a part of an answer that was kept as it is, and may be missing.
func unfoldPart(raw json.RawMessage, out any) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return unfold(raw, out, 0)
}

// digest is the same for the same JSON values, whatever the order of their fields. Numbers are taken as they are written.
func digest(values ...any) (string, error) {
	h := sha256.New()
	for _, v := range values {
		raw, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		if err := measure(raw, 0); err != nil {
			return "", err
		}
		var plain any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&plain); err != nil {
			return "", err
		}
		if err := json.NewEncoder(h).Encode(plain); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}
