package lambdahost

import (
	"os"
	"regexp"
	"strings"
)

const blot = "(removed)"

// credentialPatterns name what is blotted out, the most telling first.
var credentialPatterns = []struct {
	pattern     *regexp.Regexp
	replacement string
}{
	// user:password@ in a URL
	{regexp.MustCompile(`(://)[^/\s:@"']*:[^/\s@"']+@`), "${1}" + blot + "@"},
	// query-string and header forms of SigV4
	{regexp.MustCompile(`(?i)(x-amz-(?:security-token|signature|credential)["']?\s*[=:]\s*["']?)[^&\s"',;]+`), "${1}" + blot},
	{regexp.MustCompile(`(?i)\b((?:Credential|Signature)=)[^\s,"']+`), "${1}" + blot},
	{regexp.MustCompile(`(?i)\b((?:Basic|Bearer)\s+)[A-Za-z0-9+/._~-]{8,}=*`), "${1}" + blot},
	// access key ids
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`), blot},
	// "password": "...", secretAccessKey=...
	{regexp.MustCompile(`(?i)((?:password|passwd|secret[_-]?(?:access[_-]?)?key|session[_-]?token)` +
		`(?:\s*=|\\?["']\s*[:=])\s*\\?["']?)[^\s"'\\,&;}]+`), "${1}" + blot},
}

// secretVariables hold the function's own credentials; their values are blotted out wherever they turn up.
var secretVariables = []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}

// redact blots out what looks like credentials: error texts of HTTP clients quote URLs and headers.
func redact(text string) string {
	for _, name := range secretVariables {
		if value := os.Getenv(name); len(value) >= 8 {
			text = strings.ReplaceAll(text, value, blot)
		}
	}
	for _, p := range credentialPatterns {
		text = p.pattern.ReplaceAllString(text, p.replacement)
	}
	return text
}
