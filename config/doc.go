// Package config turns the YAML file into checked plain values. What it returns
// needs no further checking: names resolve, paths are absolute, defaults are
// filled in, every group knows its VMs.
//
// All errors of a file are found at once, each with the file and the line and
// with what to write instead; nothing of the YAML library's own words or of Go's
// types shows. So the package works on the tree of nodes, which has positions:
//
//	data -> nodes        one document, UTF-8, at most MaxSize bytes; no anchors,
//	                     aliases, tags or merge keys
//	nodes -> values      one function for each section; unknown, repeated and
//	                     missing keys, wrong types, ranges
//	values -> Config     what needs the whole: references, patterns, overlaps
//
// Scalars are read by their text, never by YAML's guesses: 017 and 0x11 are no
// numbers, and of all its words for yes only true and false are taken.
//
// This is the only package that imports a YAML library.
package config
