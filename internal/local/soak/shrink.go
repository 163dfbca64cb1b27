package soak

import (
	"regexp"
	"slices"
	"testing"
)

// tries bounds a shrinking, in programs played.
const tries = 600

// Shrink makes a failing program shorter, as long as it fails in the same way: operations are taken out in blocks, then one by one; then
// what is left is made plainer. It returns the program and what it comes to. One that does not fail (or not every time) is returned as it is.
func Shrink(t *testing.T, p Program, o Options) (Program, Outcome) {
	s := shrinker{t: t, options: o, left: tries}
	out := Play(t, p, o)
	if !out.Failed() {
		return p, out
	}
	s.how, s.best, s.outcome = kind(out.Problems[0]), p, out
	s.operations()
	for again := true; again && s.left > 0; {
		again = s.plainer()
	}
	return s.best, s.outcome
}

type shrinker struct {
	t       *testing.T
	options Options
	left    int
	how     string
	best    Program
	outcome Outcome
}

var varying = regexp.MustCompile(`[0-9]+|".*?"|/[^ ]+|: .*`)

// kind is a problem without what differs from one program to the next.
func kind(problem string) string { return varying.ReplaceAllString(problem, "") }

// try takes the program if it fails in the same way.
func (s *shrinker) try(p Program) bool {
	if s.left <= 0 {
		return false
	}
	s.left--
	out := Play(s.t, p, s.options)
	if !slices.ContainsFunc(out.Problems, func(x string) bool { return kind(x) == s.how }) {
		return false
	}
	s.best, s.outcome = p, out
	return true
}

func (p Program) with(ops []Op) Program {
	p.Ops = ops
	return p
}

// operations takes out blocks, each half as long as the one before.
func (s *shrinker) operations() {
	for block := len(s.best.Ops); block > 0; {
		took := false
		for at := 0; at < len(s.best.Ops); {
			ops := slices.Delete(slices.Clone(s.best.Ops), at, min(at+block, len(s.best.Ops)))
			if s.try(s.best.with(ops)) {
				took = true
			} else {
				at += block
			}
		}
		if !took || block > 1 {
			block /= 2
		}
	}
}

// plainer tries what makes a program easier to read; it reports whether anything was taken.
func (s *shrinker) plainer() (took bool) {
	for i := range s.best.Ops {
		for _, change := range []func(*Op) bool{
			func(o *Op) bool { // only its waiting counts
				had := o.Do != Pass
				*o = Op{Do: Pass, State: o.State, After: o.After}
				return had
			},
			func(o *Op) bool { had := o.After > 0; o.After = 0; return had },
			func(o *Op) bool { had := o.State != ""; o.State = ""; return had },
			func(o *Op) bool { had := len(o.Input) > 0; o.Input = nil; return had },
			func(o *Op) bool { had := o.Count > 1; o.Count = 1; return had },
			func(o *Op) bool { had := o.Count > 3; o.Count /= 2; return had },
			func(o *Op) bool {
				had := o.Fault != nil && o.Fault.Times > 1
				if had {
					f := *o.Fault
					f.Times = 0
					o.Fault = &f
				}
				return had
			},
		} {
			ops := slices.Clone(s.best.Ops)
			if change(&ops[i]) && s.try(s.best.with(ops)) {
				took = true
			}
		}
	}
	for i := range s.best.Indices {
		p := s.best
		if len(p.Indices) == 1 {
			break
		}
		if p.Indices = slices.Delete(slices.Clone(p.Indices), i, i+1); s.try(p) {
			return true
		}
	}
	return took
}
