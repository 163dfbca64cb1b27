package domain

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// mergeMapping adds the fields of one mapping to another; a changed type is refused as the engines do.
func mergeMapping(into, add map[string]any) *apiError {
	for k, v := range add {
		if k != "properties" {
			into[k] = v
		}
	}
	fields, ok := add["properties"].(map[string]any)
	if !ok {
		return nil
	}
	props, ok := into["properties"].(map[string]any)
	if !ok {
		props = map[string]any{}
		into["properties"] = props
	}
	return mergeProperties("", props, fields)
}

func mergeProperties(prefix string, into, add map[string]any) *apiError {
	for _, name := range sortedKeys(add) {
		field, ok := add[name].(map[string]any)
		if !ok {
			return fail(400, "mapper_parsing_exception", "Expected map for property [%s] on field [%s%s]", name, prefix, name)
		}
		if strings.Contains(name, ".") { // a dotted name is a path of objects
			head, rest, _ := strings.Cut(name, ".")
			name, field = head, map[string]any{"properties": map[string]any{rest: field}}
		}
		have, ok := into[name].(map[string]any)
		if !ok {
			have = map[string]any{}
			into[name] = have
			if sub, isObject := field["properties"].(map[string]any); isObject {
				props := map[string]any{}
				for k, v := range field {
					if k != "properties" && (k != "type" || v != "object") {
						have[k] = v
					}
				}
				have["properties"] = props
				if err := mergeProperties(prefix+name+".", props, sub); err != nil {
					return err
				}
				continue
			}
			if _, typed := field["type"]; !typed {
				return fail(400, "mapper_parsing_exception", "No type specified for field [%s%s]", prefix, name)
			}
			maps.Copy(have, field)
			continue
		}
		sub, isObject := field["properties"].(map[string]any)
		props, wasObject := have["properties"].(map[string]any)
		switch {
		case isObject && wasObject:
			if err := mergeProperties(prefix+name+".", props, sub); err != nil {
				return err
			}
		case isObject != wasObject:
			return fail(400, "illegal_argument_exception", "can't merge a non object mapping [%s%s] with an object mapping", prefix, name)
		case have["type"] != field["type"]:
			return fail(400, "illegal_argument_exception", "mapper [%s%s] cannot be changed from type [%v] to [%v]", prefix, name, have["type"], field["type"])
		default:
			maps.Copy(have, field)
		}
	}
	return nil
}

// indexFields rebuilds the cache of field types.
func (ix *index) indexFields() {
	ix.fields = map[string]string{}
	var walk func(prefix string, props map[string]any)
	walk = func(prefix string, props map[string]any) {
		for name, v := range props {
			field, _ := v.(map[string]any)
			if sub, ok := field["properties"].(map[string]any); ok {
				kind, _ := field["type"].(string)
				if kind == "" {
					kind = "object"
				}
				ix.fields[prefix+name] = kind
				walk(prefix+name+".", sub)
				continue
			}
			kind, _ := field["type"].(string)
			ix.fields[prefix+name] = kind
			if multi, ok := field["fields"].(map[string]any); ok {
				for n, f := range multi {
					m, _ := f.(map[string]any)
					kind, _ := m["type"].(string)
					ix.fields[prefix+name+"."+n] = kind
				}
			}
		}
	}
	if props, ok := ix.mapping["properties"].(map[string]any); ok {
		walk("", props)
	}
}

// mapDocument checks a document against the mapping and adds fields that are new, with the types the engines guess.
func (ix *index) mapDocument(id string, source []byte) *apiError {
	doc := gjson.ParseBytes(source)
	if !gjson.ValidBytes(source) || !doc.IsObject() {
		return fail(400, "mapper_parsing_exception", "failed to parse").causedBy("not_x_content_exception",
			"Compressor detection can only be called on some xcontent bytes or compressed xcontent bytes")
	}
	if enabled, ok := ix.mapping["enabled"].(bool); ok && !enabled {
		return nil
	}
	dynamic := textOf(ix.mapping["dynamic"])
	added := map[string]any{}
	if err := ix.mapObject(id, "", doc, dynamic, added); err != nil {
		return err
	}
	if len(added) > 0 {
		if err := mergeMapping(ix.mapping, map[string]any{"properties": added}); err != nil {
			return err
		}
		ix.mappingVersion++
		ix.indexFields()
		if len(ix.fields) > 1000 && ix.setting("index.mapping.total_fields.limit") == "" {
			return notImplemented("more than 1000 fields in one mapping")
		}
	}
	return nil
}

func (ix *index) mapObject(id, prefix string, object gjson.Result, dynamic string, added map[string]any) (err *apiError) {
	object.ForEach(func(key, value gjson.Result) bool {
		err = ix.mapValue(id, prefix, key.String(), value, dynamic, added)
		return err == nil
	})
	return err
}

func (ix *index) mapValue(id, prefix, name string, value gjson.Result, dynamic string, added map[string]any) *apiError {
	if head, rest, dotted := strings.Cut(name, "."); dotted && head != "" && rest != "" {
		sub := subObject(added, head)
		err := ix.mapValue(id, prefix+head+".", rest, value, dynamic, sub)
		dropEmpty(added, head)
		return err
	}
	path := prefix + name
	kind, known := ix.fields[path]
	if value.IsArray() && kind != "geo_point" {
		var err *apiError
		value.ForEach(func(_, element gjson.Result) bool {
			err = ix.mapValue(id, prefix, name, element, dynamic, added)
			return err == nil
		})
		return err
	}
	switch {
	case value.Type == gjson.Null:
		return nil
	case value.IsObject():
		switch kind {
		case "", "object", "nested":
			sub := subObject(added, name)
			err := ix.mapObject(id, path+".", value, dynamic, sub)
			dropEmpty(added, name)
			return err
		case "flattened", "flat_object", "geo_point", "geo_shape", "range", "integer_range", "long_range", "date_range", "completion":
			return nil
		}
		return fail(400, "mapper_parsing_exception", "failed to parse field [%s] of type [%s] in document with id '%s'. Preview of field's value: '%s'", path, kind, id, preview(value)).
			causedBy("illegal_state_exception", "Can't get text on a START_OBJECT at 1:1")
	case kind == "object" || kind == "nested":
		return fail(400, "mapper_parsing_exception", "object mapping for [%s] tried to parse field [%s] as object, but found a concrete value", path, name)
	case known:
		return checkValue(id, path, kind, value)
	case dynamic == "false":
		return nil
	case dynamic == "strict":
		return fail(400, "strict_dynamic_mapping_exception", "mapping set to strict, dynamic introduction of [%s] within [%s] is not allowed",
			name, strings.TrimSuffix("_doc."+prefix, "."))
	}
	if _, already := added[name]; !already {
		added[name] = guess(value)
	}
	return nil
}

func subObject(added map[string]any, name string) map[string]any {
	field, ok := added[name].(map[string]any)
	if !ok {
		field = map[string]any{"properties": map[string]any{}}
		added[name] = field
	}
	props, ok := field["properties"].(map[string]any)
	if !ok {
		props = map[string]any{}
		field["properties"] = props
	}
	return props
}

func dropEmpty(added map[string]any, name string) {
	if field, ok := added[name].(map[string]any); ok {
		if props, ok := field["properties"].(map[string]any); ok && len(props) == 0 {
			delete(added, name)
		}
	}
}

func preview(value gjson.Result) string {
	if value.IsObject() {
		return "{" + strings.Trim(value.Raw, "{}") + "}"
	}
	return value.String()
}

func checkValue(id, path, kind string, value gjson.Result) *apiError {
	bad := func(reason string) *apiError {
		return fail(400, "mapper_parsing_exception", "failed to parse field [%s] of type [%s] in document with id '%s'. Preview of field's value: '%s'",
			path, kind, id, preview(value)).causedBy("illegal_argument_exception", "%s", reason)
	}
	switch kind {
	case "long", "integer", "short", "byte", "unsigned_long", "double", "float", "half_float", "scaled_float":
		if value.Type == gjson.Number {
			return nil
		}
		if value.Type == gjson.String {
			if _, err := strconv.ParseFloat(value.Str, 64); err == nil || value.Str == "" {
				return nil
			}
			return bad(fmt.Sprintf("For input string: %q", value.Str))
		}
		return bad("Current token (VALUE_BOOLEAN) not numeric, can not use numeric value accessors")
	case "boolean":
		if value.Type == gjson.True || value.Type == gjson.False || value.Str == "true" || value.Str == "false" || value.Str == "" &&
			value.Type == gjson.String {
			return nil
		}
		return bad(fmt.Sprintf("Failed to parse value [%s] as only [true] or [false] are allowed.", value.String()))
	case "date":
		if value.Type == gjson.String && value.Str != "" && (value.Str[0] < '0' || value.Str[0] > '9') && value.Str[0] != '-' {
			return bad(fmt.Sprintf("failed to parse date field [%s] with format [strict_date_optional_time||epoch_millis]", value.Str))
		}
	}
	return nil
}

// guess is the engines' default dynamic mapping.
func guess(value gjson.Result) map[string]any {
	switch value.Type {
	case gjson.True, gjson.False:
		return map[string]any{"type": "boolean"}
	case gjson.Number:
		if strings.ContainsAny(value.Raw, ".eE") {
			return map[string]any{"type": "float"}
		}
		return map[string]any{"type": "long"}
	}
	if looksLikeDate(value.Str) {
		return map[string]any{"type": "date"}
	}
	return map[string]any{"type": "text", "fields": map[string]any{"keyword": map[string]any{"type": "keyword", "ignore_above": json.Number("256")}}}
}

// looksLikeDate recognises strict_date_optional_time, the format of date detection, as far as its shape goes.
func looksLikeDate(s string) bool {
	const shape = "dddd-dd-ddTdd:dd:dd"
	if len(s) < 10 && len(s) != 4+3 {
		return false
	}
	for i := 0; i < len(s) && i < len(shape); i++ {
		if shape[i] == 'd' != (s[i] >= '0' && s[i] <= '9') || shape[i] != 'd' && s[i] != shape[i] {
			return false
		}
	}
	if len(s) == 7 || len(s) == 10 {
		return true
	}
	return len(s) >= 16 && strings.Trim(s[16:], "0123456789.:Z+-") == ""
}
