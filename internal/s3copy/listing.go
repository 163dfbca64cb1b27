package s3copy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/smithy-go"
)

// Page is one answer to a listing.
type Page struct {
	Objects []Listed
	Folders []string // what a delimiter folded, each ends with it
	Next    string   // token of the next page; empty on the last one
}

// Listed is one object of a page.
type Listed struct {
	Key      string // full
	Size     int64
	Modified time.Time
	ETag     string
	Archived bool // in a storage class that must be restored before it can be read
}

// errCut is an answer that ends before its root element does. It is repeated, as S3 itself asks for with this code.
var errCut = &smithy.GenericAPIError{Code: "IncompleteBody", Message: "the listing ends in the middle"}

// decodePage reads the XML of a ListObjectsV2 answer, which may be an error document although the status is 200. It takes elements in
// any order, skips those that it does not know, and decodes keys when the answer says that they are URL-encoded. The SDK's decoder
// takes ten times as long, which is most of what a pass without changes costs (see BenchmarkPage).
func decodePage(body []byte) (Page, error) {
	s := scanner{text: body}
	root, err := s.open()
	if err != nil {
		return Page{}, err
	}
	switch string(root) {
	case "ListBucketResult":
		return s.page()
	case "Error":
		return Page{}, s.failure()
	}
	return Page{}, fmt.Errorf("the answer is a <%.40s>, not a listing", root)
}

// decodeFailure reads S3's error document; nil when it is none.
func decodeFailure(body []byte) *smithy.GenericAPIError {
	s := scanner{text: body}
	if root, err := s.open(); err != nil || string(root) != "Error" {
		return nil
	}
	failure, _ := errors.AsType[*smithy.GenericAPIError](s.failure())
	return failure
}

// span is a piece of scanner.kept.
type span struct{ from, to int }

// scanner walks over the tags of a document. It knows as much of XML as S3 and its imitations use: no document types, no CDATA.
type scanner struct {
	text []byte
	at   int
	kept []byte // the texts that the page keeps, one after another: one string for all of them in the end
	tag  []byte // name of the last tag
}

type tagKind int

const (
	opening tagKind = iota
	closing
	empty // <name/>
)

// next goes to the next tag, over text, comments and processing instructions.
func (s *scanner) next() (tagKind, error) {
	for {
		i := bytes.IndexByte(s.text[s.at:], '<')
		if i < 0 || s.at+i+1 >= len(s.text) {
			return 0, errCut
		}
		s.at += i + 1
		end := -1
		switch rest := s.text[s.at:]; {
		case rest[0] == '?':
			end = bytes.Index(rest, []byte("?>"))
		case bytes.HasPrefix(rest, []byte("!--")):
			end = bytes.Index(rest, []byte("-->"))
		case rest[0] == '!':
			return 0, fmt.Errorf("the listing has <%.20q, which no listing has", rest)
		default:
			return s.readTag()
		}
		if end < 0 {
			return 0, errCut
		}
		s.at += end
	}
}

// readTag reads from behind the '<' to behind the '>'. Attribute values may hold a '>'.
func (s *scanner) readTag() (tagKind, error) {
	kind := opening
	if s.text[s.at] == '/' {
		kind = closing
		s.at++
	}
	start, nameEnd, quote := s.at, -1, byte(0)
	for i := s.at; i < len(s.text); i++ {
		c := s.text[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '>':
			end := i
			if kind == opening && s.text[i-1] == '/' {
				kind = empty
				end--
			}
			if nameEnd < 0 || nameEnd > end {
				nameEnd = end
			}
			if nameEnd <= start {
				return 0, errors.New("the listing has a tag without a name")
			}
			s.tag = s.text[start:nameEnd]
			s.at = i + 1
			return kind, nil
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if nameEnd < 0 {
				nameEnd = i
			}
		case c == '"' || c == '\'':
			if nameEnd < 0 {
				return 0, errors.New("the listing has a quoted tag")
			}
			quote = c
		case c == '<':
			return 0, errors.New("the listing has a tag inside a tag")
		}
	}
	return 0, errCut
}

// open reads the root element's tag.
func (s *scanner) open() ([]byte, error) {
	kind, err := s.next()
	if err != nil {
		return nil, err
	}
	if kind != opening {
		return nil, fmt.Errorf("the answer begins with </%.40s>, not with a listing", s.tag)
	}
	return s.tag, nil
}

// children calls each for every child of the element that was opened last, until its end. each must read the child to its end;
// children without content are left out.
func (s *scanner) children(name string, each func(child []byte) error) error {
	for {
		kind, err := s.next()
		switch {
		case err != nil:
			return err
		case kind == closing && string(s.tag) == name:
			return nil
		case kind == closing:
			return fmt.Errorf("the listing has </%.40s> inside <%s>", s.tag, name)
		case kind == empty:
			continue
		}
		if err := each(s.tag); err != nil {
			return err
		}
	}
}

// skip reads an element that is not wanted, to its end.
func (s *scanner) skip() error {
	for depth := 1; depth > 0; {
		kind, err := s.next()
		if err != nil {
			return err
		}
		switch kind {
		case opening:
			depth++
		case closing:
			depth--
		}
	}
	return nil
}

// leaf returns the text of the element that was opened last, as it is written, and reads its end.
func (s *scanner) leaf(name []byte) ([]byte, error) {
	i := bytes.IndexByte(s.text[s.at:], '<')
	if i < 0 {
		return nil, errCut
	}
	text := s.text[s.at : s.at+i]
	end := s.text[s.at+i:]
	// The usual end, without a walk.
	if len(end) > len(name)+2 && end[1] == '/' && end[len(name)+2] == '>' && bytes.Equal(end[2:len(name)+2], name) {
		s.at += i + len(name) + 3
		return text, nil
	}
	if len(end) < 2 {
		return nil, errCut
	}
	if end[1] != '/' {
		return nil, fmt.Errorf("the listing has a tag inside <%s>", name)
	}
	s.at += i
	if _, err := s.next(); err != nil {
		return nil, err
	}
	if !bytes.Equal(s.tag, name) {
		return nil, fmt.Errorf("the listing has <%.40s> where <%s> should end", s.tag, name)
	}
	return text, nil
}

// keep appends a text to kept, its entities replaced.
func (s *scanner) keep(text []byte) (span, error) {
	from := len(s.kept)
	for {
		i := bytes.IndexByte(text, '&')
		if i < 0 {
			s.kept = append(s.kept, text...)
			return span{from, len(s.kept)}, nil
		}
		s.kept = append(s.kept, text[:i]...)
		text = text[i+1:]
		end := bytes.IndexByte(text[:min(len(text), 12)], ';')
		if end < 0 {
			return span{}, errors.New("the listing has an & without its ;")
		}
		switch string(text[:end]) {
		case "amp":
			s.kept = append(s.kept, '&')
		case "lt":
			s.kept = append(s.kept, '<')
		case "gt":
			s.kept = append(s.kept, '>')
		case "quot":
			s.kept = append(s.kept, '"')
		case "apos":
			s.kept = append(s.kept, '\'')
		default:
			r, err := character(string(text[:end]))
			if err != nil {
				return span{}, err
			}
			s.kept = utf8.AppendRune(s.kept, r)
		}
		text = text[end+1:]
	}
}

// character reads the name of a numeric entity, "#65" or "#x41".
func character(name string) (rune, error) {
	digits, found := strings.CutPrefix(name, "#")
	if !found {
		return 0, fmt.Errorf("the listing has the unknown entity &%s;", name)
	}
	base := 10
	if hex, found := strings.CutPrefix(digits, "x"); found {
		digits, base = hex, 16
	}
	r, err := strconv.ParseUint(digits, base, 32)
	if err != nil || r == 0 || r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
		return 0, fmt.Errorf("the listing has the impossible character &%s;", name)
	}
	return rune(r), nil
}

// unescape decodes a URL-encoded piece of kept in place: it only becomes shorter. S3 writes a space as '+'.
func (s *scanner) unescape(p span) (span, error) {
	text := s.kept[p.from:p.to]
	if bytes.IndexByte(text, '%') < 0 && bytes.IndexByte(text, '+') < 0 {
		return p, nil
	}
	to := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(text) {
				return p, errors.New("the listing has a key with half an escape")
			}
			high, low := hexDigit(text[i+1]), hexDigit(text[i+2])
			if high < 0 || low < 0 {
				return p, fmt.Errorf("the listing has a key with the escape %q", text[i:i+3])
			}
			c = byte(high<<4 | low)
			i += 2
		}
		text[to] = c
		to++
	}
	return span{p.from, p.from + to}, nil
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// page reads the children of ListBucketResult.
func (s *scanner) page() (Page, error) {
	type listed struct{ key, etag span }
	var page Page
	var spans []listed
	var folders []span
	var token span
	truncated, encoded := false, false
	// A page of a repository has about a fifth of its length in keys and ETags.
	s.kept = make([]byte, 0, len(s.text)/4)
	if n := min(len(s.text)/200, 1000); n > 0 {
		page.Objects, spans = make([]Listed, 0, n), make([]listed, 0, n)
	}
	err := s.children("ListBucketResult", func(child []byte) (err error) {
		switch string(child) {
		case "Contents":
			page.Objects, spans = append(page.Objects, Listed{}), append(spans, listed{key: span{-1, -1}})
			i := len(spans) - 1
			if err := s.object(&page.Objects[i], &spans[i].key, &spans[i].etag); err != nil {
				return err
			}
			if spans[i].key.from < 0 {
				return errors.New("the listing has an object without a key")
			}
		case "CommonPrefixes":
			return s.children("CommonPrefixes", func(child []byte) error {
				if string(child) != "Prefix" {
					return s.skip()
				}
				text, err := s.leaf(child)
				if err != nil {
					return err
				}
				folder, err := s.keep(text)
				folders = append(folders, folder)
				return err
			})
		case "IsTruncated", "EncodingType":
			is := child[0] == 'I'
			text, err := s.leaf(child)
			if err != nil {
				return err
			}
			if is {
				truncated = string(bytes.TrimSpace(text)) == "true"
			} else {
				encoded = string(bytes.TrimSpace(text)) == "url"
			}
		case "NextContinuationToken":
			text, err := s.leaf(child)
			if err != nil {
				return err
			}
			token, err = s.keep(text)
			return err
		default:
			return s.skip()
		}
		return nil
	})
	if err != nil {
		return Page{}, err
	}
	if encoded {
		for i := range spans {
			if spans[i].key, err = s.unescape(spans[i].key); err != nil {
				return Page{}, err
			}
		}
		for i := range folders {
			if folders[i], err = s.unescape(folders[i]); err != nil {
				return Page{}, err
			}
		}
	}
	kept := string(s.kept)
	for i, at := range spans {
		page.Objects[i].Key, page.Objects[i].ETag = kept[at.key.from:at.key.to], kept[at.etag.from:at.etag.to]
	}
	for _, at := range folders {
		page.Folders = append(page.Folders, kept[at.from:at.to])
	}
	page.Next = kept[token.from:token.to]
	switch {
	case truncated && page.Next == "":
		// Ending here would leave the rest of the bucket out, silently.
		return Page{}, &smithy.GenericAPIError{Code: "InternalError", Message: "the listing says that it goes on, but not where"}
	case !truncated:
		page.Next = ""
	}
	return page, nil
}

// object reads the children of Contents. It is children written out: a closure for each object would be most of its cost.
func (s *scanner) object(o *Listed, key, etag *span) error {
	for {
		kind, err := s.next()
		switch {
		case err != nil:
			return err
		case kind == closing && string(s.tag) == "Contents":
			return nil
		case kind == closing:
			return fmt.Errorf("the listing has </%.40s> inside <Contents>", s.tag)
		case kind == empty:
			continue
		}
		switch string(s.tag) {
		case "Key":
			err = s.keepLeaf(key)
		case "ETag":
			err = s.keepLeaf(etag)
		case "Size":
			var text []byte
			if text, err = s.leaf(s.tag); err == nil {
				o.Size, err = parseSize(text)
			}
		case "LastModified":
			var text []byte
			if text, err = s.leaf(s.tag); err == nil {
				o.Modified, err = parseTime(text)
			}
		case "StorageClass":
			var text []byte
			if text, err = s.leaf(s.tag); err == nil {
				o.Archived = archived(string(text))
			}
		default:
			err = s.skip()
		}
		if err != nil {
			return err
		}
	}
}

func (s *scanner) keepLeaf(at *span) error {
	text, err := s.leaf(s.tag)
	if err == nil {
		*at, err = s.keep(text)
	}
	return err
}

// archived reports whether objects of a storage class must be restored before they can be copied (S3 user guide, "archived objects").
func archived(class string) bool { return class == "GLACIER" || class == "DEEP_ARCHIVE" }

func parseSize(text []byte) (int64, error) {
	if len(text) == 0 || len(text) > 18 {
		return 0, fmt.Errorf("the listing has the size %.30q", text)
	}
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("the listing has the size %q", text)
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// parseTime reads "2026-11-23T06:40:00.000Z", the only form that S3 writes, and falls back to any other of RFC 3339.
func parseTime(text []byte) (time.Time, error) {
	if len(text) == 24 && text[4] == '-' && text[7] == '-' && text[10] == 'T' && text[13] == ':' && text[16] == ':' && text[19] == '.' && text[23] == 'Z' {
		year, a := digits(text[0:4])
		month, b := digits(text[5:7])
		day, c := digits(text[8:10])
		hour, d := digits(text[11:13])
		minute, e := digits(text[14:16])
		second, f := digits(text[17:19])
		milli, g := digits(text[20:23])
		if a && b && c && d && e && f && g && month >= 1 && month <= 12 && day >= 1 && day <= 31 && hour < 24 && minute < 60 && second < 60 {
			return time.Date(year, time.Month(month), day, hour, minute, second, milli*1e6, time.UTC), nil
		}
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return t, fmt.Errorf("the listing has the time %.40q", text)
	}
	return t.UTC(), nil
}

func digits(text []byte) (n int, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// failure reads the children of Error.
func (s *scanner) failure() error {
	failure := &smithy.GenericAPIError{}
	err := s.children("Error", func(child []byte) error {
		name := string(child)
		if name != "Code" && name != "Message" {
			return s.skip()
		}
		text, err := s.leaf(child)
		if err != nil {
			return err
		}
		at, err := s.keep(text)
		if err != nil {
			return err
		}
		if name == "Code" {
			failure.Code = string(s.kept[at.from:at.to])
		} else {
			failure.Message = string(s.kept[at.from:at.to])
		}
		return nil
	})
	if failure.Code == "" {
		if err == nil {
			err = errors.New("it has no code")
		}
		return fmt.Errorf("the answer is an error document that cannot be read: %w", err)
	}
	return failure
}
