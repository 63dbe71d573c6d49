package qemu

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// pair is one setting of an option's value.
type pair struct {
	key   string // empty: a value whose key is implied by its place
	value string
	alone bool // a key without "=value"
}

// keyval is the value of an option such as -drive: settings with commas between
// them, in order. Nested settings have dots in their keys.
type keyval struct {
	pairs []pair
	json  bool // it was given as a JSON object
}

// parseKeyval reads "a=b,c.d=e", where ",," stands for a comma in a value, or
// the JSON that newer options take too. implied says that the first setting may
// lack its key.
func parseKeyval(value string, implied bool) keyval {
	if strings.HasPrefix(value, "{") {
		var doc map[string]any
		dec := json.NewDecoder(strings.NewReader(value))
		dec.UseNumber() // large numbers stay as they are written
		if dec.Decode(&doc) == nil {
			kv := keyval{json: true}
			kv.flatten("", doc)
			return kv
		}
	}
	var kv keyval
	for i, part := range splitCommas(value) {
		k, v, ok := strings.Cut(part, "=")
		switch {
		case ok && k != "":
			kv.pairs = append(kv.pairs, pair{key: k, value: v})
		case i == 0 && implied:
			kv.pairs = append(kv.pairs, pair{value: part})
		default:
			kv.pairs = append(kv.pairs, pair{key: part, alone: true})
		}
	}
	return kv
}

// splitCommas splits at single commas and makes double ones single.
func splitCommas(s string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			part.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			part.WriteByte(',')
			i++
		default:
			parts = append(parts, part.String())
			part.Reset()
		}
	}
	return append(parts, part.String())
}

// flatten turns a JSON object into settings with dots, sorted by key.
func (kv *keyval) flatten(prefix string, v any) {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			kv.flatten(dotted(prefix, k), v[k])
		}
	case []any:
		for i, x := range v {
			kv.flatten(dotted(prefix, fmt.Sprint(i)), x)
		}
	case bool:
		kv.pairs = append(kv.pairs, pair{key: prefix, value: map[bool]string{true: "on", false: "off"}[v]})
	case nil:
		kv.pairs = append(kv.pairs, pair{key: prefix})
	default:
		kv.pairs = append(kv.pairs, pair{key: prefix, value: fmt.Sprint(v)})
	}
}

func dotted(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// get is the last value of a key; empty when it is not there.
func (kv keyval) get(key string) string {
	for _, p := range slices.Backward(kv.pairs) {
		if p.key == key && !p.alone {
			return p.value
		}
	}
	return ""
}

// first is the value whose key is implied, or that of the key.
func (kv keyval) first(key string) string {
	if len(kv.pairs) > 0 && kv.pairs[0].key == "" {
		return kv.pairs[0].value
	}
	return kv.get(key)
}

func (kv keyval) has(key string) bool {
	return slices.ContainsFunc(kv.pairs, func(p pair) bool { return p.key == key })
}

// says tells whether any setting has that value.
func (kv keyval) says(value string) bool {
	return slices.ContainsFunc(kv.pairs, func(p pair) bool { return p.value == value })
}

// without is a copy that lacks some keys and all that is nested in them.
func (kv keyval) without(keys ...string) keyval {
	kv.pairs = slices.DeleteFunc(slices.Clone(kv.pairs), func(p pair) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return p.key == k || strings.HasPrefix(p.key, k+".") })
	})
	return kv
}

// with is a copy with a key set, at its place or at the end.
func (kv keyval) with(key, value string) keyval {
	i := slices.IndexFunc(kv.pairs, func(p pair) bool { return p.key == key })
	kv.pairs = slices.Clone(kv.pairs)
	if i < 0 {
		kv.pairs = append(kv.pairs, pair{key: key, value: value})
	} else {
		kv.pairs[i] = pair{key: key, value: value}
	}
	return kv
}

// String is the value as QEMU reads it.
func (kv keyval) String() string {
	parts := make([]string, len(kv.pairs))
	for i, p := range kv.pairs {
		switch {
		case p.alone:
			parts[i] = escape(p.key)
		case p.key == "":
			parts[i] = escape(p.value)
		default:
			parts[i] = escape(p.key) + "=" + escape(p.value)
		}
	}
	return strings.Join(parts, ",")
}

func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
