package frontdoor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// automatedRepository is the repository that the service keeps for itself.
const automatedRepository = "cs-automated"

// carried is the prefix under which a caller's S3 settings travel among those of the fs repository. The engines keep settings that
// they do not know; base_path must not keep its name, for the fs repositories of newer engines know one too. No dot: the
// engines would show it nested.
const carried = "front_door_"

// shared are the settings that mean the same for s3 and fs repositories.
var shared = []string{"readonly", "compress", "chunk_size", "max_snapshot_bytes_per_sec", "max_restore_bytes_per_sec", "shard_path_type"}

type repository struct {
	Type     string         `json:"type"`
	Settings map[string]any `json:"settings,omitempty"`
}

func (r repository) text(setting string) string {
	s, _ := r.Settings[setting].(string)
	return s
}

func (r repository) readonly() bool { return fmt.Sprint(r.Settings["readonly"]) == "true" }

// translation says how a request's answer is to be changed on the way back; answer is nil for most.
type translation struct {
	answer func(*answer) *answer
}

// translate turns what concerns repositories between S3's form, which callers see, and fs, which the cluster sees. A refusal is
// returned as the second value.
func (d *Door) translate(req *Request) (translation, *answer) {
	name, one := req.repository()
	list := len(req.segments) == 1 && req.segments[0] == "_snapshot"
	switch {
	case one && (req.Method == http.MethodPut || req.Method == http.MethodPost):
		return translation{}, d.register(req, name)
	case req.Method == http.MethodGet && (one || list):
		if d.cfg.Profile == Amazon && d.cfg.AutomatedRoot == "" && name == automatedRepository {
			return translation{}, jsonAnswer(http.StatusOK, map[string]repository{name: {Type: "s3"}})
		}
		return translation{func(a *answer) *answer { return d.showRepositories(a, name) }}, nil
	}
	return translation{}, nil
}

// register rewrites a registration, or returns its refusal.
func (d *Door) register(req *Request, name string) *answer {
	var asked repository
	if err := json.Unmarshal(req.Body, &asked); err != nil || asked.Type == "" {
		return nil // the cluster itself says what is wrong with it
	}
	if asked.Type != "s3" {
		if d.cfg.Profile == Amazon {
			return payloadNotAllowed(req.Path) // Amazon documents no other type
		}
		return nil
	}
	if a := d.checkRegistration(req, name, asked); a != nil {
		return a
	}
	location, err := d.location(asked)
	if err == nil {
		err = openFolder(filepath.Join(d.cfg.GatewayRoot, asked.text("bucket")), location, asked.readonly())
	}
	if err != nil {
		return engineError(http.StatusInternalServerError, cause{"repository_exception",
			fmt.Sprintf("[%s] the front door cannot keep this repository as a folder: %v", name, err)})
	}
	settings := map[string]any{"location": location}
	for key, value := range asked.Settings {
		if slices.Contains(shared, key) {
			settings[key] = value
		} else {
			settings[carried+key] = value
		}
	}
	body, err := json.Marshal(repository{"fs", settings})
	if err != nil {
		return engineError(http.StatusBadRequest, cause{"illegal_argument_exception", err.Error()})
	}
	req.Body = body
	return nil
}

// checkRegistration refuses what Amazon and S3 would refuse.
func (d *Door) checkRegistration(req *Request, name string, asked repository) *answer {
	bucket, role := asked.text("bucket"), asked.text("role_arn")
	if d.cfg.Profile == Amazon {
		parts := strings.SplitN(role, ":", 6)
		if role == "" {
			// Status and text as published by users: AuthenticationException(401, ...).
			return jsonAnswer(http.StatusUnauthorized, map[string]string{"Message": "settings.role_arn is needed for snapshot registration."})
		}
		if len(parts) != 6 || parts[0] != "arn" || parts[2] != "iam" || !strings.HasPrefix(parts[5], "role/") {
			return jsonAnswer(http.StatusBadRequest, map[string]string{"Message": fmt.Sprintf("settings.role_arn %q is not the ARN of a role.", role)})
		}
		// PassRole cannot cross accounts.
		if caller := strings.SplitN(req.Principal, ":", 6); len(caller) == 6 && caller[4] != parts[4] {
			return jsonAnswer(http.StatusForbidden, map[string]string{"Message": fmt.Sprintf(
				"User: %s is not authorized to perform: iam:PassRole on resource: %s", req.Principal, role)})
		}
	}
	if bucket == "" {
		return engineError(http.StatusInternalServerError, cause{"repository_exception", fmt.Sprintf("[%s] failed to create repository", name)},
			cause{"illegal_argument_exception", "No bucket defined for s3 repository"})
	}
	if !req.verify {
		return nil
	}
	if info, err := os.Stat(filepath.Join(d.cfg.GatewayRoot, filepath.Base(bucket))); err != nil || !info.IsDir() {
		return d.unreachable(name, asked, "The specified bucket does not exist (Service: Amazon S3; Status Code: 404; Error Code: NoSuchBucket)")
	}
	if problem := d.wrongRegion(asked); problem != "" {
		return d.unreachable(name, asked, problem)
	}
	return nil
}

// wrongRegion returns S3's error for a client that was told the wrong Region, or "". Amazon's guide wants "endpoint":
// "s3.amazonaws.com" in place of a Region for a bucket in another Region than the domain's; without either, the domain's counts.
func (d *Door) wrongRegion(asked repository) string {
	bucket, region, endpoint := asked.text("bucket"), asked.text("region"), asked.text("endpoint")
	home, known := d.cfg.BucketRegions[bucket]
	if !known {
		home = d.cfg.Region
	}
	if home == "" {
		return ""
	}
	if endpoint != "" {
		host := endpoint
		if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
			host = u.Host
		}
		if host == "s3.amazonaws.com" || host == "s3."+home+".amazonaws.com" {
			return ""
		}
		return "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to " +
			"this endpoint. (Service: Amazon S3; Status Code: 301; Error Code: PermanentRedirect)"
	}
	if region == "" {
		region = d.cfg.Region
	}
	if region != "" && region != home {
		return fmt.Sprintf("The authorization header is malformed; the region '%s' is wrong; expecting '%s' (Service: Amazon S3; "+
			"Status Code: 400; Error Code: AuthorizationHeaderMalformed)", region, home)
	}
	if d.cfg.Profile == Amazon && d.cfg.Region != "" && home != d.cfg.Region {
		return "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to " +
			"this endpoint. (Service: Amazon S3; Status Code: 301; Error Code: PermanentRedirect)"
	}
	return ""
}

// unreachable is how an engine tells of a repository that it cannot use: the verification failed on S3's error.
func (d *Door) unreachable(name string, asked repository, s3 string) *answer {
	node, class := "master", "amazon_s3_exception"
	if d.engine.openSearch && d.engine.version >= 200 {
		node = "cluster-manager"
	}
	if d.engine.openSearch && d.engine.version >= 209 {
		class = "s3_exception" // the second S3 SDK
	}
	what := "Unable to upload object [" + path.Join(asked.text("base_path"), "tests-0/master.dat") + "] using a single upload"
	if asked.readonly() {
		what = "Exception when listing blobs by prefix [index-]"
	}
	return engineError(http.StatusInternalServerError,
		cause{"repository_verification_exception", fmt.Sprintf("[%s] path [%s] is not accessible on %s node", name, asked.text("base_path"), node)},
		cause{"i_o_exception", what}, cause{class, s3})
}

// cause is one link of an engine's error.
type cause struct{ Type, Reason string }

// engineError writes an error as the engines do: the first cause on top, the others nested below it.
func engineError(status int, causes ...cause) *answer {
	var nested map[string]any
	for _, c := range slices.Backward(causes) {
		level := map[string]any{"type": c.Type, "reason": c.Reason}
		if nested != nil {
			level["caused_by"] = nested
		}
		nested = level
	}
	nested["root_cause"] = []any{map[string]any{"type": causes[0].Type, "reason": causes[0].Reason}}
	return jsonAnswer(status, map[string]any{"error": nested, "status": status})
}

// location is the folder of an s3 repository.
func (d *Door) location(asked repository) (string, error) {
	bucket, base := asked.text("bucket"), asked.text("base_path")
	if bucket != filepath.Base(bucket) || strings.HasPrefix(bucket, ".") {
		return "", fmt.Errorf("%q is no bucket's name", bucket)
	}
	base = strings.TrimSuffix(base, "/")
	if base != "" && (!fs.ValidPath(base) || base == ".") {
		return "", fmt.Errorf("base_path %q must be a relative path without empty, \".\" or \"..\" parts", base)
	}
	return filepath.Join(d.cfg.GatewayRoot, bucket, filepath.FromSlash(base)), nil
}

// openFolder makes the repository's folder, which the cluster may be running as another user to use: folders that are made here are
// open to all, and for a writable repository so are those that another program made below the base path. What belongs to yet
// another user (the node itself) is left as it is.
func openFolder(bucket, location string, readonly bool) error {
	rest, err := filepath.Rel(bucket, location)
	if err != nil {
		return err
	}
	dir := bucket
	for part := range strings.SplitSeq(rest, string(filepath.Separator)) {
		if part == "." {
			break
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o777); err == nil {
			if err := os.Chmod(dir, 0o777); err != nil {
				return err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if readonly || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(location, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted meanwhile
			}
			return err
		}
		if !e.IsDir() {
			return nil
		}
		info, err := e.Info()
		if err != nil || info.Mode().Perm() == 0o777 {
			return nil
		}
		return os.Chmod(p, info.Mode().Perm()|0o777)
	})
}

// showRepositories turns the cluster's list of repositories into what Amazon's would show. asked is the name or pattern asked for.
func (d *Door) showRepositories(a *answer, asked string) *answer {
	var list map[string]repository
	if json.Unmarshal(a.body, &list) != nil {
		return a
	}
	for name, r := range list {
		list[name] = d.show(name, r)
	}
	if d.cfg.Profile == Amazon && matches(asked, automatedRepository) {
		list[automatedRepository] = repository{Type: "s3"}
	}
	out := jsonAnswer(a.status, list)
	for k, v := range a.header {
		if _, set := out.header[k]; !set && k != "Content-Length" {
			out.header[k] = v
		}
	}
	return out
}

// matches tells whether a list of repositories asked for by pattern holds name.
func matches(pattern, name string) bool {
	if pattern == "" || pattern == "_all" {
		return true
	}
	for p := range strings.SplitSeq(pattern, ",") {
		if ok, err := path.Match(p, name); err == nil && ok {
			return true
		}
	}
	return false
}

func (d *Door) show(name string, r repository) repository {
	if name == automatedRepository && d.cfg.Profile == Amazon {
		return repository{Type: "s3"} // Amazon tells no more of it
	}
	rest, err := filepath.Rel(d.cfg.GatewayRoot, r.text("location"))
	if r.Type != "fs" || err != nil || rest == "." || rest == ".." || strings.HasPrefix(rest, "../") {
		return r
	}
	settings := maps.Clone(r.Settings)
	delete(settings, "location")
	for key, value := range r.Settings {
		if original, ok := strings.CutPrefix(key, carried); ok {
			delete(settings, key)
			settings[original] = value
		}
	}
	if settings["bucket"] == nil { // registered at the cluster itself: the folder tells
		bucket, base, _ := strings.Cut(filepath.ToSlash(rest), "/")
		settings["bucket"] = bucket
		if base != "" {
			settings["base_path"] = base
		}
	}
	return repository{"s3", settings}
}
