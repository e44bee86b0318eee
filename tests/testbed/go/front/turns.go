// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package front

import (
	"sync"
	"sync/atomic"
	"time"
)

// Turn is what all kinds of rules have in them: for which of those that match a rule is, and what it holds.
type Turn struct {
	ID int `json:"-"`
	// First is the number of the first match that it is for, from 1; Times for how many from there, 0 for ever.
	First int `json:"first"`
	Times int `json:"times"`
	// Seconds is how long it holds; 0: until released.
	Seconds float64 `json:"seconds"`

	seen     int
	applied  atomic.Int64
	holding  atomic.Int64
	released chan struct{}
}

func (t *Turn) turn() *Turn { return t }

// comes counts a match, and tells whether the rule is for it.
func (t *Turn) comes() bool {
	t.seen++
	return t.seen >= t.First && (t.Times == 0 || t.seen < t.First+t.Times)
}

// Hold waits until the rule has ended or its seconds are over.
func (t *Turn) Hold() {
	t.holding.Add(1)
	defer t.holding.Add(-1)
	var over <-chan time.Time
	if t.Seconds > 0 {
		over = time.After(time.Duration(t.Seconds * float64(time.Second)))
	}
	select {
	case <-t.released:
	case <-over:
	}
}

// Rules are those of one kind, in the order in which they came.
type Rules[R interface{ turn() *Turn }] struct {
	mu    sync.Mutex
	rules []R
	last  int
}

// Add puts a rule after those that are there, and answers its number.
func (s *Rules[R]) Add(rule R) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	turn := rule.turn()
	turn.ID, turn.First, turn.released = s.last, max(1, turn.First), make(chan struct{})
	s.rules = append(s.rules, rule)
	return s.last
}

// End lets go of what a rule holds and takes it away; number 0: all rules.
func (s *Rules[R]) End(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []R
	for _, rule := range s.rules {
		if turn := rule.turn(); id == 0 || turn.ID == id {
			close(turn.released)
		} else {
			kept = append(kept, rule)
		}
	}
	s.rules = kept
}

// For is the first rule that matches and whose turn it is, nil where there is none.
func (s *Rules[R]) For(matches func(R) bool) R {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rule := range s.rules {
		if turn := rule.turn(); matches(rule) && turn.comes() {
			turn.applied.Add(1)
			return rule
		}
	}
	var none R
	return none
}

// All are those that are there.
func (s *Rules[R]) All() []R {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]R{}, s.rules...)
}
