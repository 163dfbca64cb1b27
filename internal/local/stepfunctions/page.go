package stepfunctions

import (
	"encoding/base64"
	"strings"
)

// pageInput are the members of every operation that answers in pages.
type pageInput struct {
	MaxResults int
	NextToken  *string
}

func (in pageInput) checkPage(v *violations, longestToken int) {
	v.number("maxResults", in.MaxResults, 0, 1000)
	v.length("nextToken", in.NextToken, 1, longestToken)
}

// listing is what is cut into pages. A token names the last row that was shown, not an offset, so that rows which come and go between
// two pages (an execution starts, the history grows) neither repeat nor skip another.
type listing[T any] struct {
	name  string // of the answer's member
	of    string // what the token belongs to: "Keep all other arguments unchanged"
	all   []T
	key   func(T) string
	shown func(T) (row any, keep bool)
}

// page answers the next page. 0 means the API's default of 100 rows.
func (l listing[T]) page(in pageInput) (any, error) {
	most := in.MaxResults
	if most == 0 {
		most = 100
	}
	rest := l.all
	if in.NextToken != nil {
		after, ok := l.parse(*in.NextToken)
		for ok && len(rest) > 0 && l.key(rest[0]) != after {
			rest = rest[1:]
		}
		if !ok || len(rest) == 0 {
			return nil, refuse("InvalidToken", "Invalid Token: '%s'", *in.NextToken)
		}
		rest = rest[1:]
	}
	rows, last := []any{}, ""
	m := map[string]any{}
	for _, item := range rest {
		row, keep := l.shown(item)
		if !keep {
			continue
		}
		if len(rows) == most {
			m["nextToken"] = l.token(last)
			break
		}
		rows, last = append(rows, row), l.key(item)
	}
	m[l.name] = rows
	return m, nil
}

func (l listing[T]) token(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(l.name + "\n" + l.of + "\n" + last))
}

func (l listing[T]) parse(token string) (after string, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(string(raw), l.name+"\n"+l.of+"\n")
}
