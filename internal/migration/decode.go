package migration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Problem is one thing wrong with the input.
type Problem struct {
	Path string `json:"path"` // JSON path, $.source.endpoint
	Text string `json:"text"`
}

// Problems is everything wrong with the input at once.
type Problems []Problem

// Error lists the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, q := range p {
		lines[i] = q.Path + ": " + q.Text
	}
	noun := "problems"
	if len(p) == 1 {
		noun = "problem"
	}
	return fmt.Sprintf("%d %s:\n%s", len(p), noun, strings.Join(lines, "\n"))
}

// DecodeSpec reads the operator's input strictly and fills in the defaults. The error is Problems: unknown fields, wrong types,
// missing fields and bad values, all of them; the Spec then holds what could be read.
func DecodeSpec(input []byte) (Spec, error) {
	if len(input) > maximumInput {
		return Spec{}, Problems{{"$", fmt.Sprintf("has %d bytes; Step Functions takes at most %d", len(input), maximumInput)}}
	}
	dec := json.NewDecoder(bytes.NewReader(input))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return Spec{}, Problems{{"$", "is not JSON: " + err.Error()}}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Spec{}, Problems{{"$", "has text after the JSON document"}}
	}
	var r reader
	spec := r.spec(doc)
	if len(r.problems) > 0 {
		return spec, r.problems
	}
	return spec, nil
}

// Limits of an input: what a state of Step Functions holds, and more problems than anybody mends at once.
const (
	maximumInput = 256 << 10
	mostProblems = 200
)

// reader walks a decoded document and collects problems instead of stopping at the first.
type reader struct{ problems Problems }

func (r *reader) problem(path, format string, args ...any) {
	switch n := len(r.problems); {
	case n < mostProblems:
		r.problems = append(r.problems, Problem{path, fmt.Sprintf(format, args...)})
	case n == mostProblems:
		r.problems = append(r.problems, Problem{"$", "there are more problems than these"})
	}
}

// object is a JSON object whose fields are taken one by one; what is left over is unknown.
type object struct {
	r      *reader
	path   string
	fields map[string]any
}

func (r *reader) object(path string, v any, known ...string) (object, bool) {
	fields, ok := v.(map[string]any)
	if !ok {
		r.problem(path, "must be an object, is %s", kind(v))
		return object{}, false
	}
	var unknown []string
	for name := range fields {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		hint := ""
		if near := nearest(name, known); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		r.problem(path+"."+name, "unknown field%s", hint)
	}
	return object{r, path, fields}, true
}

func (o object) has(name string) bool { _, ok := o.fields[name]; return ok }

func (o object) text(name string, required bool, check func(string) error) string {
	v, ok := o.fields[name]
	path := o.path + "." + name
	if !ok {
		if required {
			o.r.problem(path, "is missing")
		}
		return ""
	}
	s, ok := v.(string)
	if !ok {
		o.r.problem(path, "must be a string, is %s", kind(v))
		return ""
	}
	if check != nil {
		if err := check(s); err != nil {
			o.r.problem(path, "%v", err)
		}
	}
	return s
}

func (o object) integer(name string, fallback, low, high int) int {
	v, ok := o.fields[name]
	if !ok {
		return fallback
	}
	path := o.path + "." + name
	n, ok := v.(json.Number)
	if !ok {
		o.r.problem(path, "must be a whole number, is %s", kind(v))
		return fallback
	}
	i, err := n.Int64()
	if err != nil || i < int64(low) || i > int64(high) {
		o.r.problem(path, "must be a whole number from %d to %d, is %s", low, high, n)
		return fallback
	}
	return int(i)
}

func (o object) duration(name string, low time.Duration, required bool) Duration {
	s := o.text(name, required, nil)
	if _, given := o.fields[name].(string); !given {
		return 0
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		o.r.problem(o.path+"."+name, "%q is not a duration; write it like \"10m\" or \"1h30m\"", s)
	case d < low:
		o.r.problem(o.path+"."+name, "must be at least %s, is %s", low, s)
	case d > 365*24*time.Hour:
		o.r.problem(o.path+"."+name, "must be at most a year, is %s", s)
	}
	return Duration(d)
}

// time reads a moment; the zero time when it is not given or wrong.
func (o object) time(name string) time.Time {
	s := o.text(name, false, nil)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		o.r.problem(o.path+"."+name, "%q is not a moment; write it like \"2026-11-30T02:00:00Z\"", s)
		return time.Time{}
	}
	return t.UTC()
}

func (o object) texts(name string, check func(string) error) []string {
	v, ok := o.fields[name]
	if !ok {
		return nil
	}
	path := o.path + "." + name
	list, ok := v.([]any)
	if !ok {
		o.r.problem(path, "must be an array of strings, is %s", kind(v))
		return nil
	}
	texts := []string{}
	for i, e := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		s, ok := e.(string)
		if !ok {
			o.r.problem(p, "must be a string, is %s", kind(e))
			continue
		}
		if err := check(s); err != nil {
			o.r.problem(p, "%v", err)
		} else if slices.Contains(texts, s) {
			o.r.problem(p, "%q is listed twice", s)
		}
		texts = append(texts, s)
	}
	return texts
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array"
	}
	return "an object"
}

// nearest returns the known field that differs from name in letter case only, by one letter too many, too few or wrong, or by a
// missing end; else "".
func nearest(name string, known []string) string {
	name = strings.ToLower(name)
	for _, k := range known {
		if low := strings.ToLower(k); low == name || len(name) > 3 && (strings.HasPrefix(low, name) || oneLetter(low, name)) {
			return k
		}
	}
	return ""
}

// oneLetter reports whether leaving out or replacing one byte makes a and b equal.
func oneLetter(a, b string) bool {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	switch len(a) - len(b) {
	case 0:
		return a[i:] != "" && a[i+1:] == b[i+1:]
	case 1:
		return a[i+1:] == b[i:]
	case -1:
		return a[i:] == b[i+1:]
	}
	return false
}

func (r *reader) spec(doc any) Spec {
	o, ok := r.object("$", doc, "migration", "mode", "source", "destination", "indices", "downtimeWindow", "rounds", "lastMile", "onNeverFits", "topology", "cutOver", "clients", "replicas", "finish", "keepSnapshots", "comment")
	if !ok {
		return Spec{}
	}
	o.text("comment", false, nil) // for the operator's own eyes; not kept
	s := Spec{
		Migration:   o.text("migration", true, checkName),
		Mode:        Mode(o.text("mode", false, oneOf(string(Assess), string(Warm), string(Migrate), string(GoBack)))),
		LastMile:    LastMile(o.text("lastMile", false, oneOf(string(LastMileAuto), string(LastMileRounds), string(LastMileReplay)))),
		OnNeverFits: OnNeverFits(o.text("onNeverFits", false, oneOf(string(StopMigration), string(AskOperator)))),
		Topology:    Topology(o.text("topology", false, checkTopology)),
		Clients:     Clients(o.text("clients", false, oneOf(string(ClientsRun), string(ClientsStopped)))),
	}
	if s.LastMile == "" {
		s.LastMile = LastMileAuto
	}
	if s.OnNeverFits == "" {
		s.OnNeverFits = StopMigration
	}
	if s.Mode == "" {
		s.Mode = Migrate
	}
	if s.Clients == "" {
		s.Clients = ClientsRun
	}
	if s.Topology == "" {
		s.Topology = Copy
	}
	s.Source = r.endpoint(o, "source", s.Mode)
	s.Destination = r.endpoint(o, "destination", s.Mode)
	s.Indices = r.selection(o)
	s.DowntimeWindow = o.duration("downtimeWindow", time.Second, s.Mode.CutsOver())
	s.Rounds = RoundLimits{Minimum: defaultMinimumRounds, Maximum: defaultMaximumRounds}
	if o.has("rounds") {
		if ro, ok := r.object("$.rounds", o.fields["rounds"], "minimum", "maximum", "pause"); ok {
			s.Rounds.Minimum = ro.integer("minimum", defaultMinimumRounds, 1, maximumRounds)
			s.Rounds.Maximum = ro.integer("maximum", max(defaultMaximumRounds, s.Rounds.Minimum), 1, maximumRounds)
			s.Rounds.Pause = ro.duration("pause", 0, false)
			if s.Rounds.Minimum > s.Rounds.Maximum {
				r.problem("$.rounds.minimum", "is %d, above rounds.maximum (%d)", s.Rounds.Minimum, s.Rounds.Maximum)
			}
			if s.Mode == Migrate && s.Rounds.Minimum < 2 {
				r.problem("$.rounds.minimum", "must be at least 2 in mode migrate: the first round moves everything and predicts nothing")
			}
		}
	}
	s.CutOver = r.conditions(o)
	if o.has("replicas") {
		n := o.integer("replicas", 0, 0, 100)
		s.Replicas = &n
	}
	s.Finish = r.finish(o)
	if o.has("keepSnapshots") {
		n := o.integer("keepSnapshots", mostKeptSnapshots, 1, mostKeptSnapshots)
		s.KeepSnapshots = &n
	}
	r.apart(s)
	return s
}

func (r *reader) conditions(parent object) CutOverConditions {
	c := CutOverConditions{Approval: NoApproval, ApprovalTimeout: Duration(defaultApproval)}
	if !parent.has("cutOver") {
		return c
	}
	o, ok := r.object("$.cutOver", parent.fields["cutOver"], "notBefore", "notAfter", "every", "approval", "approvalTimeout")
	if !ok {
		return c
	}
	c.NotBefore, c.NotAfter = o.time("notBefore"), o.time("notAfter")
	c.Every = o.duration("every", time.Hour, false)
	if o.has("approval") {
		c.Approval = Approval(o.text("approval", false, oneOf(string(NoApproval), string(ApprovalRequired))))
	}
	if o.has("approvalTimeout") {
		c.ApprovalTimeout = o.duration("approvalTimeout", time.Minute, false)
	}
	length := c.NotAfter.Sub(c.NotBefore)
	both := !c.NotBefore.IsZero() && !c.NotAfter.IsZero()
	switch {
	case both && length <= 0:
		r.problem("$.cutOver.notAfter", "must be later than notBefore")
	case o.has("every") && !both:
		r.problem("$.cutOver.every", "repeats the window from notBefore to notAfter; give both")
	case both && c.Every > 0 && length > time.Duration(c.Every):
		r.problem("$.cutOver.every", "is shorter than the window, which is %s long", length)
	case both && c.Every == 0 && length < defaultEvery:
		c.Every = Duration(defaultEvery)
	}
	return c
}

func (r *reader) finish(parent object) FinishOptions {
	var f FinishOptions
	if !parent.has("finish") {
		return f
	}
	o, ok := r.object("$.finish", parent.fields["finish"], "refreshInterval", "waitForGreen")
	if !ok {
		return f
	}
	f.RefreshInterval = o.text("refreshInterval", false, checkRefreshInterval)
	f.WaitForGreen = o.duration("waitForGreen", 0, false)
	if time.Duration(f.WaitForGreen) > longestWaitForGreen {
		r.problem("$.finish.waitForGreen", "must be at most %s, is %s", longestWaitForGreen, f.WaitForGreen)
	}
	return f
}

// refreshIntervals are those that all engines read alike: -1 is never, and a number without a unit is refused.
var refreshIntervals = regexp.MustCompile(`^(-1|[0-9]{1,9}(ms|s|m|h|d))$`)

func checkRefreshInterval(s string) error {
	if !refreshIntervals.MatchString(s) {
		return fmt.Errorf("%q is not a refresh interval; write it like \"1s\" or \"30s\", or \"-1\" for none", s)
	}
	return nil
}

// apart refuses a migration onto itself.
func (r *reader) apart(s Spec) {
	a, b := s.Source, s.Destination
	if a.Endpoint != "" && strings.EqualFold(strings.TrimRight(a.Endpoint, "/"), strings.TrimRight(b.Endpoint, "/")) {
		r.problem("$.destination.endpoint", "is the source's endpoint; source and destination must be two domains")
	}
	if a.DomainARN != "" && a.DomainARN == b.DomainARN {
		r.problem("$.destination.domainArn", "is the source's ARN; source and destination must be two domains")
	}
	if a.Repository.Bucket != "" && a.Repository.Bucket == b.Repository.Bucket && overlap(a.Repository.BasePath, b.Repository.BasePath) {
		r.problem("$.destination.repository", "lies in the source's bucket and base path; topology copy needs two places that do not contain each other")
	}
}

func overlap(a, b string) bool {
	return a == b || a == "" || b == "" || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

func (r *reader) endpoint(parent object, name string, mode Mode) Endpoint {
	path := parent.path + "." + name
	v, ok := parent.fields[name]
	if !ok {
		r.problem(path, "is missing")
		return Endpoint{}
	}
	o, ok := r.object(path, v, "domainArn", "endpoint", "repository", "access")
	if !ok {
		return Endpoint{}
	}
	e := Endpoint{
		DomainARN: o.text("domainArn", true, checkDomainARN),
		Endpoint:  strings.TrimRight(o.text("endpoint", true, checkEndpoint), "/"),
	}
	e.Access = r.access(o, e.DomainARN)
	rv, ok := o.fields["repository"]
	if !ok {
		if mode != GoBack { // which takes no snapshot
			r.problem(path+".repository", "is missing")
		}
		return e
	}
	ro, ok := r.object(path+".repository", rv, "bucket", "basePath", "region", "roleArn")
	if !ok {
		return e
	}
	e.Repository = Repository{
		Bucket:   ro.text("bucket", true, checkBucket),
		BasePath: ro.text("basePath", false, checkBasePath),
		Region:   ro.text("region", false, checkRegion),
		RoleARN:  ro.text("roleArn", true, checkRoleARN),
	}
	if e.Repository.Region == "" {
		e.Repository.Region = e.Region()
	}
	return e
}

// access reads how a domain of another account is reached. The role is of that account: only an identity of it may change its bucket's policy.
func (r *reader) access(parent object, domain string) Access {
	if !parent.has("access") {
		return Access{}
	}
	o, ok := r.object(parent.path+".access", parent.fields["access"], "roleArn", "externalId")
	if !ok {
		return Access{}
	}
	a := Access{RoleARN: o.text("roleArn", true, checkRoleARN), ExternalID: o.text("externalId", false, checkExternalID)}
	if role, at := parseARN(a.RoleARN).account, parseARN(domain).account; role != "" && at != "" && role != at {
		r.problem(o.path+".roleArn", "is of account %s, the domain of account %s; name the role that the stack of the domain's account has made", role, at)
	}
	return a
}

func (r *reader) selection(parent object) Selection {
	s := Selection{Include: []string{"*"}, Exclude: []string{}}
	if !parent.has("indices") {
		return s
	}
	o, ok := r.object("$.indices", parent.fields["indices"], "include", "exclude")
	if !ok {
		return s
	}
	if o.has("include") {
		s.Include = o.texts("include", checkPattern)
		if len(s.Include) == 0 {
			r.problem("$.indices.include", "must name at least one index or pattern")
		}
	}
	if o.has("exclude") {
		s.Exclude = o.texts("exclude", checkPattern)
	}
	return s
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(values, s) {
			return nil
		}
		return fmt.Errorf("must be one of %s, is %q", strings.Join(values, ", "), s)
	}
}

func checkTopology(s string) error {
	if s == "shared" {
		return errors.New(`"shared" is not built yet; use "copy"`)
	}
	return oneOf(string(Copy))(s)
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// checkName refuses what an engine refuses as a repository or snapshot name (lower case, no space, no leading underscore;
// snapshots.md 3.1), what Amazon keeps for itself (cs-), and what a Step Functions name cannot hold.
func checkName(s string) error {
	switch {
	case !namePattern.MatchString(s):
		return fmt.Errorf("%q must be lower-case letters, digits and hyphens, and start with a letter or digit", s)
	case len(s) > maximumNameLength:
		return fmt.Errorf("must have at most %d characters, has %d", maximumNameLength, len(s))
	case strings.HasPrefix(s, "cs-"):
		return errors.New("must not start with cs-, which Amazon keeps for its own repositories")
	}
	return nil
}

func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New("must be the domain's URL without path, user or query, like https://search-orders-abc.eu-west-1.es.amazonaws.com")
	}
	if u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()) {
		return nil
	}
	return errors.New("must be https (http is accepted for loopback addresses only)")
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

type arn struct{ partition, service, region, account, resource string }

func parseARN(s string) arn {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[0] != "arn" {
		return arn{}
	}
	return arn{p[1], p[2], p[3], p[4], p[5]}
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]$`)
	domainPattern  = regexp.MustCompile(`^domain/[a-z][a-z0-9-]{2,27}$`)
	rolePattern    = regexp.MustCompile(`^role/[A-Za-z0-9+=,.@_/-]{1,512}$`)
	bucketPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
)

func checkDomainARN(s string) error {
	a := parseARN(s)
	if a.service != "es" || !regionPattern.MatchString(a.region) || !accountPattern.MatchString(a.account) || !domainPattern.MatchString(a.resource) {
		return fmt.Errorf("%q is not a domain ARN; it looks like arn:aws:es:eu-west-1:111122223333:domain/orders", s)
	}
	return nil
}

func checkRoleARN(s string) error {
	a := parseARN(s)
	if a.service != "iam" || a.region != "" || !accountPattern.MatchString(a.account) || !rolePattern.MatchString(a.resource) {
		return fmt.Errorf("%q is not a role ARN; it looks like arn:aws:iam::111122223333:role/snapshots", s)
	}
	return nil
}

// externalIDPattern is STS's (AssumeRole, ExternalId).
var externalIDPattern = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]+$`)

func checkExternalID(s string) error {
	if len(s) < 2 || len(s) > 1224 || !externalIDPattern.MatchString(s) {
		return errors.New("must be 2 to 1224 letters, digits and _ + = , . @ : / -")
	}
	return nil
}

func checkRegion(s string) error {
	if !regionPattern.MatchString(s) {
		return fmt.Errorf("%q is not a Region like eu-west-1", s)
	}
	return nil
}

func checkBucket(s string) error {
	if !bucketPattern.MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%q is not a bucket name (3 to 63 lower-case letters, digits, dots and hyphens)", s)
	}
	return nil
}

func checkBasePath(s string) error {
	switch {
	case strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/"):
		return errors.New("must not start or end with a slash")
	case strings.Contains(s, "//") || strings.Contains("/"+s+"/", "/../") || strings.Contains("/"+s+"/", "/./"):
		return errors.New("must not have empty or dot segments")
	case len(s) > 512 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == '\\' }):
		return errors.New("must be at most 512 bytes of valid text without control characters or backslashes")
	}
	return nil
}

// checkPattern accepts an index name or a pattern with *, as the engines name indices.
func checkPattern(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > 255:
		return errors.New("is longer than an index name can be (255 bytes)")
	case strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "_"):
		return fmt.Errorf("%q must not start with -, + or _; use exclude for exclusions", s)
	case strings.ToLower(s) != s || strings.ContainsAny(s, "\\/?\"<>| ,#:"):
		return fmt.Errorf("%q is not an index name or pattern (lower case, * as wildcard)", s)
	}
	return nil
}
