package stepfunctions

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// violations are the model's limits that a request breaks; the service names them all in one answer.
type violations []string

func (v *violations) add(value, member, constraint string, args ...any) {
	*v = append(*v, fmt.Sprintf("Value %sat '%s' failed to satisfy constraint: %s", value, member, fmt.Sprintf(constraint, args...)))
}

func (v *violations) err() error {
	switch len(*v) {
	case 0:
		return nil
	case 1:
		return invalid("1 validation error detected: %s", (*v)[0])
	}
	return invalid("%d validation errors detected: %s", len(*v), strings.Join(*v, "; "))
}

// required says that a member must be there.
func (v *violations) required(member string, value *string) {
	if value == nil {
		v.add("null ", member, "Member must not be null")
	}
}

// length checks a text of least to most characters.
func (v *violations) length(member string, value *string, least, most int) {
	if value != nil {
		v.characters("'"+*value+"' ", member, *value, least, most)
	}
}

// hidden checks a text that the service does not repeat because it may be a secret.
func (v *violations) hidden(member string, value *string, most int) {
	if value != nil {
		v.characters("", member, *value, 0, most)
	}
}

func (v *violations) characters(shown, member, value string, least, most int) {
	switch n := utf8.RuneCountInString(value); {
	case n < least:
		v.add(shown, member, "Member must have length greater than or equal to %d", least)
	case n > most:
		v.add(shown, member, "Member must have length less than or equal to %d", most)
	}
}

// maximumPayload is the limit of an input or output in bytes.
const maximumPayload = 262_144

// payload checks an input or output.
func (v *violations) payload(member string, value *string) {
	if value != nil && len(*value) > maximumPayload {
		v.add("", member, "Member must have size less than or equal to %d bytes in UTF-8 encoding", maximumPayload)
	}
}

// oneOf checks an enumeration.
func (v *violations) oneOf(member string, value *string, allowed ...string) {
	if value != nil && !slices.Contains(allowed, *value) {
		v.add("'"+*value+"' ", member, "Member must satisfy enum value set: [%s]", strings.Join(allowed, ", "))
	}
}

// number checks a number from least to most.
func (v *violations) number(member string, value, least, most int) {
	switch {
	case value < least:
		v.add(fmt.Sprintf("'%d' ", value), member, "Member must have value greater than or equal to %d", least)
	case value > most:
		v.add(fmt.Sprintf("'%d' ", value), member, "Member must have value less than or equal to %d", most)
	}
}

func (v *violations) requiredARN(member string, value *string) {
	v.required(member, value)
	v.length(member, value, 1, 256)
}

func invalid(format string, args ...any) *apiError {
	return &apiError{
		status: http.StatusBadRequest, namespace: validationErrors, code: "ValidationException", message: fmt.Sprintf(format, args...),
	}
}

// checkARN refuses what is no ARN of Step Functions, or one of another kind of resource.
func checkARN(arn, kind string) error {
	parts := strings.Split(arn, ":")
	switch {
	case parts[0] != "arn":
		return refuse("InvalidArn", "Invalid Arn: 'Invalid ARN prefix: %s'", arn)
	case len(parts) < 7 || parts[2] != "states" || slices.Contains(parts, ""):
		return refuse("InvalidArn", "Invalid Arn: '%s'", arn)
	case parts[5] != kind:
		return refuse("InvalidArn", "Invalid Arn: 'Resource type not valid in this context: %s'", parts[5])
	case kind == "stateMachine" && strings.Contains(parts[6], "/"):
		return invalid("the labelled ARN '%s' names the children of Map Runs; use the state machine's ARN or a Map Run's", arn).
			with("reason", "API_DOES_NOT_SUPPORT_LABELED_ARNS")
	}
	return nil
}

// value is the text, or nothing.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
