package cluster

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// Refusal is what a cluster (or the service before it) answered instead of doing what it was asked. It is the Err of the faults
// that come from an HTTP answer; use errors.AsType or HasType to look into it.
type Refusal struct {
	Status int
	Type   string  // "snapshot_restore_exception"; empty when the answer is not the engines' JSON
	Reason string  // the outermost reason, message or text
	Causes []Cause // the outermost first, then root causes, nested causes and failed shards
}

// Cause is one error type and reason out of an answer.
type Cause struct{ Type, Reason string }

// Error quotes the outermost type and reason, and the innermost ones where they differ.
func (r *Refusal) Error() string {
	text := Cause{r.Type, r.Reason}.String()
	for i := len(r.Causes) - 1; i > 0; i-- {
		if last := r.Causes[i]; last.Reason != "" && !strings.Contains(r.Reason, last.Reason) {
			return text + "; caused by " + last.String()
		}
	}
	return text
}

// String returns "type: reason", each part shortened.
func (c Cause) String() string {
	reason := excerpt(c.Reason, 700)
	switch {
	case c.Type == "" && reason == "":
		return "(an answer without a reason)"
	case c.Type == "":
		return reason
	case reason == "":
		return excerpt(c.Type, 120)
	}
	return excerpt(c.Type, 120) + ": " + reason
}

// HasType reports whether err comes from an answer that names one of the engines' error types ("snapshot_missing_exception"),
// at any depth.
func HasType(err error, types ...string) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && slices.ContainsFunc(r.Causes, func(c Cause) bool { return slices.Contains(types, c.Type) })
}

// NameTaken reports whether err is the refusal of a snapshot name that is taken, by a finished or a running snapshot: after a
// lost answer the snapshot may well be the caller's own.
func NameTaken(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && HasType(err, "invalid_snapshot_name_exception") && strings.Contains(r.text(), "same name")
}

// openIndex is how Elasticsearch 6 to OpenSearch 3 say that an index to be restored exists and is open.
var openIndex = re(`cannot restore index \[[^\n]*(open index with same name|because it's open)`)

// OpenIndexInTheWay reports whether err is the refusal of a restore over an open index: after a lost answer that may well be the
// caller's own restore, which has taken effect since it looked.
func OpenIndexInTheWay(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && openIndex.MatchString(r.text())
}

func (r *Refusal) text() string {
	var b strings.Builder
	for _, c := range r.Causes {
		b.WriteString(c.Type)
		b.WriteString(": ")
		b.WriteString(c.Reason)
		b.WriteByte('\n')
	}
	return b.String()
}

// signature recognises one known failure. All of its conditions must hold.
type signature struct {
	id     string         // the row of the catalogue of failures, for tests and for people who extend it
	status []int          // any of these; empty: any
	text   *regexp.Regexp // found in the lines "type: reason" of all causes
	name   fault.Name
	hint   string // empty: the catalogue's
}

func re(expression string) *regexp.Regexp { return regexp.MustCompile(`(?i)` + expression) }

// signatures are tried in order; the first that matches decides. Texts vary by engine and version (quotes, [index/uuid], master or
// cluster-manager, wrapped causes), so the expressions hold on to types and stable words. The texts come from answers recorded from
// real nodes (testdata/responses.jsonl), from the engines' sources and from the service's troubleshooting pages.
var signatures = []signature{
	// Asked for less.
	{"disk flood stage", nil, re(`/12/(index read-only|disk usage exceeded)`), fault.RequestRefused,
		"A node's disk passed the flood-stage watermark and its indices take no writes. Free or add disk space, then clear index.blocks.read_only_allow_delete."},
	{"throttled", nil, re(`request throttled|too many requests|es_rejected_execution_exception|rejected_execution_exception|circuit_breaking_exception`), fault.Throttled, ""},
	{"throttled", []int{http.StatusTooManyRequests}, nil, fault.Throttled, ""},

	// The service's allow-list answers 401 or 403 too, but no permission helps there.
	{"not offered", nil, re(`your request: '.*' (payload )?is not allowed`), fault.RequestRefused,
		"Amazon OpenSearch Service does not offer this operation on this version; no permission changes that."},
	{"host header", nil, re(`invalid host header`), fault.RequestRefused,
		"Use the domain's own endpoint name, not an IP address or another alias."},

	// Who asks.
	{"pass role", nil, re(`not authorized to perform:? iam:PassRole`), fault.AccessDenied,
		"The caller needs iam:PassRole on the snapshot role, which must be in the domain's own account. If the message says \"anonymous\", the request was not signed or the caller's role is not mapped: map its ARN to manage_snapshots in the domain's fine-grained access control."},
	{"assume role", nil, re(`a_?w_?s_?security_?token_?service_?exception|not authorized to perform:? sts:AssumeRole`), fault.AccessDenied,
		"The domain cannot assume the snapshot role: its trust policy must allow es.amazonaws.com (check aws:SourceArn and aws:SourceAccount). A new role or policy takes some minutes to be known everywhere; redrive then."},
	{"anonymous", nil, re(`user: anonymous is not authorized`), fault.AccessDenied,
		"The request was not signed by a role that the domain's access policy allows. Allow the caller role in the domain's access policy."},
	{"expired token", nil, re(`(security )?token (included in the request |provided |in the request )?(has |is )?expired|provided token has expired|ExpiredToken`), fault.AccessDenied,
		"The credentials have expired. Use a role, not copied session credentials; on a cluster outside Amazon give the repository a role or long-lived keys."},
	{"signature", nil, re(`request signature we calculated does not match|signature expired|InvalidSignatureException|credential should be scoped|IncompleteSignature|UnrecognizedClientException|security token included in the request is invalid`), fault.AccessDenied,
		"The domain did not accept the request's signature: check the Region in the input, the caller's credentials and the machine's clock."},
	{"no permissions []", nil, re(`no permissions for \[\] and user`), fault.AccessDenied,
		"The security plugin refuses a restore that would touch the global state or the security index. Leave system indices out of the migration and name indices explicitly."},
	{"snapshot permissions", nil, re(`no permissions for \[cluster:admin/(repository|snapshot)/`), fault.AccessDenied,
		"Map the caller role's ARN as a backend role to manage_snapshots in the domain's fine-grained access control (_plugins/_security, or _opendistro/_security on Elasticsearch)."},
	{"index permissions", nil, re(`no permissions for \[(indices|cluster):`), fault.AccessDenied,
		"Map the caller role's ARN as a backend role to a role with the permission in brackets (manage_snapshots alone is not enough for settings, close, stats and recovery), in the domain's fine-grained access control."},
	{"security exception", nil, re(`(^|\n)security_exception:`), fault.AccessDenied, ""},

	// Something else is running.
	{"busy", nil, re(`concurrent_snapshot_execution_exception|snapshot_in_progress_exception|restore process is already running`), fault.Busy, ""},
	{"busy", nil, re(`cannot (close|delete) indices that are being (snapshotted|restored)`), fault.Busy, ""},
	{"repository in use", nil, re(`repository that is currently used`), fault.Busy, ""},

	// Versions.
	{"cannot upgrade", nil, re(`because it cannot be upgraded|minimum compatible version is|must be marked as read-only using the setting|for setting \[index\.version\.created\]`), fault.Incompatible,
		"The index was created by a version that the destination cannot read. Reindex it on the source (or over an intermediate version), exclude it, or choose another destination version."},
	{"newer snapshot", nil, re(`which is higher than the version of this node|unsupported_version_exception|can't get text on a (start_|field_)|\[INCOMPATIBLE\]`), fault.Incompatible,
		"The snapshot was made by a version that this cluster cannot read. Choose a destination of at least the source's version and no more than one major version later."},

	// The repository.
	{"two writers", nil, re(`concurrent modification of the index-N file|contents of the repository do not match its expected state`), fault.RepositoryCorrupt,
		"Another cluster writes to this repository, or the bucket changed underneath. Register it read-only everywhere but at the source, remove the registration and register again."},
	{"S3 region", nil, re(`authorization header is malformed; the region|PermanentRedirect|must be addressed using the specified endpoint`), fault.RepositoryRefused,
		"The bucket is in another Region than the repository says. On an Amazon domain use \"endpoint\": \"s3.amazonaws.com\" instead of \"region\"; elsewhere set both."},
	{"storage class", nil, re(`not valid for the object's storage class`), fault.RepositoryRefused,
		"Objects of the repository were moved to an archive storage class. Restore them in S3 and remove the lifecycle rule, then start again."},
	{"ACL", nil, re(`AccessControlListNotSupported|does not allow ACLs`), fault.RepositoryRefused,
		"The bucket refuses ACLs (BucketOwnerEnforced): remove canned_acl from the repository's settings."},
	{"repository missing", nil, re(`repository_missing_exception`), fault.RepositoryRefused,
		"The repository is not registered on this domain. Start a new execution, which registers it; if it was registered, somebody removed it."},
	{"blob missing", nil, re(`(no_such_file_exception|NoSuchFileException|NoSuchKey|no such key)[^\n]*(snap-|meta-|index-|__)`), fault.RepositoryCorrupt,
		"An object that the repository's index names is not there: the copy is incomplete, something deletes in the bucket (lifecycle rule, another cleaner), or s3:ListBucket is missing so that S3 answers 404. Do not delete anything; compare the listings."},
	{"read-only repository", nil, re(`(in|from|on) a? ?read-?only repository`), fault.RepositoryRefused,
		"The repository is registered read-only here. Only the source may write to it; check which domain this is."},
	{"S3 access", nil, re(`(repository_verification_exception|unable to upload object|failed to create blob container|blob_?store)[\s\S]*(access ?denied|access_denied|status code: 403|forbidden|kms)`), fault.RepositoryRefused,
		"S3 (or its KMS key) refused the snapshot role: it needs s3:ListBucket on the bucket, s3:GetObject, PutObject and DeleteObject on its objects, and the key's use."},
	{"verification", nil, re(`repository_verification_exception|unable to upload object|failed to create blob container|access_denied_exception`), fault.RepositoryRefused,
		"The nodes could not write to and read from the bucket. Check bucket, base path and the snapshot role's permissions; right after the role was made, wait some minutes and redrive."},

	// Snapshots and restores.
	{"name taken", nil, re(`invalid_snapshot_name_exception[^\n]*same name`), fault.RequestRefused,
		"A snapshot of this name exists or is running in the repository. If it is not this migration's, choose another migration name."},
	{"red primaries", nil, re(`indices don't have primary shards`), fault.SnapshotFailed,
		"The indices named have primary shards that are not allocated. Bring them back to green on the source (GET _cluster/allocation/explain) or exclude them, then redrive."},
	{"partial snapshot", nil, re(`wasn't fully snapshotted|unsupported snapshot state`), fault.SnapshotFailed,
		"The snapshot is not complete, and Domain Ferry never restores a part of an index. Take a new snapshot once the source is green."},
	{"snapshot not visible", nil, re(`snapshot does not exist`), fault.RequestRefused,
		"The repository as this domain sees it does not hold the snapshot: its index-N was not copied yet, or the registration keeps an old list. Redrive from the copy, or register the repository again."},
	{"index open", nil, openIndex, fault.RequestRefused,
		"An open index of this name exists at the destination. If this migration made it, it must be closed first; if not, delete or rename it. System indices are to be left out."},
	{"shard count", nil, re(`cannot restore index \[[^\n]*shards from a snapshot of index`), fault.RequestRefused,
		"The destination's copy has another number of primary shards than the source's index (it was re-created, shrunk or split). Delete the destination's copy, so that it is restored anew."},
	{"shard limit", nil, re(`this action would add \[\d+\][^\n]*maximum[^\n]*shards open`), fault.RequestRefused,
		"The destination's limit of shards per node is reached. Add data nodes, delete indices there, or raise cluster.max_shards_per_node where the service allows it."},
	{"awareness", nil, re(`total copies needs to be a multiple of total awareness attributes`), fault.RequestRefused,
		"The domain (Multi-AZ with Standby) wants copies in every zone: set the replicas to a number that fits, or disable standby until the migration is done."},
	{"write index", nil, re(`has more than one write index|has more than one index associated`), fault.RequestRefused,
		"Two indices claim the same alias. Restore without aliases and set the aliases in one atomic step afterwards."},
	{"alias conflict", nil, re(`already exists as alias|need to be unique, but the following duplicates`), fault.RequestRefused,
		"An alias at the destination has the name of an index (or the other way round). Remove or rename it there."},
	{"data stream write index", nil, re(`cannot close the following data stream write indices`), fault.RequestRefused,
		"The write index of a data stream cannot be closed. Roll the stream over, or delete the stream at the destination so that its indices are restored as plain ones."},
	{"write block", nil, re(`FORBIDDEN/8/`), fault.RequestRefused,
		"The index carries a write block (index.blocks.write): the freeze of this migration, a block that came with a snapshot, or one set by hand."},
	{"read-only block", nil, re(`FORBIDDEN/(5|6)/`), fault.RequestRefused,
		"The index or the cluster is read-only (index.blocks.read_only, cluster.blocks.read_only); a snapshot needs it off. Use a write block instead."},
	{"package missing", nil, re(`analyzers/F\d+`), fault.RestoreFailed,
		"An analyzer refers to a package that is not associated with the destination. Associate it there first (its id may differ), then redrive."},
	{"retries exceeded", nil, re(`exceeded the maximum number of retries|restore failed|failed to be restored from the snapshot`), fault.RestoreFailed,
		"The shard cannot be read or placed: disk watermark, allocation settings, a missing package, plugin or object. Mend the cause, close or delete the index at the destination, and redrive."},
	{"snapshot exception", nil, re(`snapshot could not be read|failed to update snapshot in repository|failed to read shard snapshot file`), fault.RepositoryCorrupt, ""},
	{"snapshot exception", []int{500}, re(`^snapshot_(creation_)?exception:`), fault.SnapshotFailed, ""},
	{"restore exception", nil, re(`^snapshot_restore_exception:`), fault.RequestRefused, ""},
	{"repository exception", nil, re(`(^|\n)repository_exception:`), fault.RepositoryRefused, ""},
	// The engines answer 500 for faults of the request, too.
	{"request fault", []int{500}, re(`^(illegal_argument_exception|illegal_state_exception|invalid_index_name_exception|index_not_found_exception|settings_exception|validation_exception|parse_exception):`), fault.RequestRefused, ""},
}

// Diagnose looks a text up in the catalogue of known failures (an allocation explanation, a shard failure's reason). known is
// false when no entry matches.
func Diagnose(text string) (name fault.Name, hint string, known bool) {
	for _, s := range signatures {
		if len(s.status) == 0 && s.text.MatchString(text) {
			return s.name, s.advice(), true
		}
	}
	return fault.Unclassified, "", false
}

func (s signature) advice() string {
	if s.hint != "" {
		return s.hint
	}
	d, _ := fault.Lookup(s.name)
	return d.Hint
}

// classify turns an answer of status 300 or above into a fault.
func classify(op, target string, mutating bool, resp *http.Response, raw []byte) error {
	r := parseRefusal(resp.StatusCode, raw)
	if r.Reason == "" && r.Type == "" {
		r.Reason = http.StatusText(resp.StatusCode)
		r.Causes = []Cause{{"", r.Reason}}
	}
	name, hint := verdict(r, mutating)
	if resp.StatusCode < 400 {
		name, hint = fault.RequestRefused, "The endpoint redirects to another address; give the domain's own endpoint."
	}
	f := fault.New(name, op, target, r)
	f.Status, f.Hint = resp.StatusCode, hint
	return f
}

func verdict(r *Refusal, mutating bool) (fault.Name, string) {
	text := r.text()
	// A gateway's answer says nothing of what the cluster does with the request.
	if mutating && (r.Status == http.StatusGatewayTimeout || r.Status == http.StatusBadGateway || r.Status == http.StatusRequestTimeout) {
		return fault.OutcomeUnknown, ""
	}
	for _, s := range signatures {
		if (len(s.status) == 0 || slices.Contains(s.status, r.Status)) && (s.text == nil || s.text.MatchString(text)) {
			return s.name, s.hint
		}
	}
	switch {
	case r.Status >= 500 || r.Status == http.StatusRequestTimeout:
		return fault.Unavailable, ""
	case r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden && r.Type != "cluster_block_exception":
		return fault.AccessDenied, ""
	}
	return fault.RequestRefused, ""
}

// parseRefusal reads the forms that errors come in: {"error":{"type","reason","root_cause","caused_by"},"status"} of the engines,
// {"error":"text"}, {"message"} or {"Message"} of the service and of the security plugin, and plain text or HTML.
func parseRefusal(status int, raw []byte) *Refusal {
	r := &Refusal{Status: status}
	var top map[string]any
	if measure(raw, 0) != nil || json.Unmarshal(raw, &top) != nil {
		// A proxy may have wrapped the JSON into a string, or cut it off.
		r.Reason = excerpt(string(raw), 1000)
		r.Causes = []Cause{{"", r.Reason}}
		return r
	}
	switch e := top["error"].(type) {
	case map[string]any:
		collect(e, 0, &r.Causes)
		if len(r.Causes) > 0 {
			r.Type, r.Reason = r.Causes[0].Type, r.Causes[0].Reason
		}
	case string:
		r.Reason = cut(e, maxReason)
	}
	if r.Type == "" && r.Reason == "" {
		for _, key := range []string{"Message", "message", "reason"} {
			if s, ok := top[key].(string); ok && s != "" {
				r.Reason = cut(s, maxReason)
				break
			}
		}
		if kind, ok := top["__type"].(string); ok {
			r.Type = cut(kind, 200)
		}
		if r.Type == "" && r.Reason == "" {
			r.Reason = excerpt(string(raw), 1000)
		}
	}
	if len(r.Causes) == 0 {
		r.Causes = []Cause{{r.Type, r.Reason}}
	}
	return r
}

// Bounds on what a hostile or huge answer can make us keep.
const (
	maxCauses     = 64
	maxCauseDepth = 24
	maxReason     = 8 << 10
)

func collect(e map[string]any, depth int, out *[]Cause) {
	if depth > maxCauseDepth || len(*out) >= maxCauses {
		return
	}
	kind, _ := e["type"].(string)
	reason, _ := e["reason"].(string)
	if kind != "" || reason != "" {
		c := Cause{cut(kind, 200), cut(reason, maxReason)}
		if !slices.Contains(*out, c) {
			*out = append(*out, c)
		}
	}
	for _, key := range []string{"root_cause", "caused_by", "failed_shards", "suppressed", "reason"} {
		switch nested := e[key].(type) {
		case map[string]any:
			collect(nested, depth+1, out)
		case []any:
			for _, item := range nested {
				if m, ok := item.(map[string]any); ok {
					collect(m, depth+1, out)
				}
			}
		}
	}
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
