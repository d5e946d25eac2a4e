package recording

import (
	"cmp"
	"slices"
)

// What files there are, and which go when there are too many.

// add is called with s.mu held.
func (s *Store) add(f *file) {
	r := s.of[f.name.registration]
	if r == nil {
		r = new(recorded)
		s.of[f.name.registration] = r
	}
	r.files = append(r.files, f)
	r.used += f.room()
	s.used += f.room()
	if f.live {
		r.live += f.room()
		s.live += f.room()
	}
	s.files++
}

// grow makes room for n more bytes of a live file. It reports whether there is.
func (s *Store) grow(f *file, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account(f, n)
	if s.fits(s.of[f.name.registration]) {
		return true
	}
	s.account(f, -n)
	return false
}

// account is called with s.mu held when a live file gets n bytes longer.
func (s *Store) account(f *file, n int) {
	before := f.room()
	f.size += int64(n)
	more := f.room() - before
	r := s.of[f.name.registration]
	r.used += more
	r.live += more
	s.used += more
	s.live += more
}

// fits makes room for what r's files have come to. It reports whether there is, as
// there is not where r does not leave enough to others: files still being written
// are not removed. How many of those there are, the sessions that a registration may have
// at once limit. s.mu is held.
func (s *Store) fits(r *recorded) bool {
	return r.live <= s.limits.Total-s.live && s.fit(r.used)
}

// finished is called with the bytes of a file's last lines, which have room in any
// case: what they take too much, the next to grow makes up for.
func (s *Store) finished(f *file, last int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account(f, last)
	s.settle(f)
}

// settle is called with s.mu held when f is no longer written to.
func (s *Store) settle(f *file) {
	if f.live {
		s.of[f.name.registration].live -= f.room()
		s.live -= f.room()
		f.live = false
	}
}

// fit removes finished files of registrations with at least so much room until
// the rest is within the limits. It reports false where that does not help. s.mu
// is held.
func (s *Store) fit(least int64) bool {
	for s.used > s.limits.Total || s.files > s.limits.Files {
		victim := s.oldestOfLargest(least)
		if victim == nil {
			return false
		}
		s.drop(victim)
	}
	return true
}

// oldestOfLargest returns the oldest finished file of the registration with the
// most room that has one, and at least so much; nil without any.
func (s *Store) oldestOfLargest(least int64) *file {
	var victim *file
	var most int64
	for _, r := range s.of {
		if r.used < least || victim != nil && r.used <= most {
			continue
		}
		if i := slices.IndexFunc(r.files, func(f *file) bool { return !f.live }); i >= 0 {
			victim, most = r.files[i], r.used
		}
	}
	return victim
}

func (s *Store) remove(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(f)
}

// drop removes a file. s.mu is held. A file that cannot be removed is no longer
// accounted for until the store is opened again.
func (s *Store) drop(f *file) {
	r := s.of[f.name.registration]
	i := slices.Index(r.files, f)
	if i < 0 {
		return
	}
	s.settle(f)
	r.files = slices.Delete(r.files, i, i+1)
	r.used -= f.room()
	s.used -= f.room()
	s.files--
	if len(r.files) == 0 {
		delete(s.of, f.name.registration)
	}
	_ = s.root.Remove(f.name.path())
	_ = s.root.Remove(f.name.day()) // goes with its last file
}

// find returns a copy of what is known of a file.
func (s *Store) find(id string) (file, bool) {
	n, ok := parseID(id)
	if !ok {
		return file{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.of[n.registration]
	if r == nil {
		return file{}, false
	}
	i := slices.IndexFunc(r.files, func(f *file) bool { return f.name.nonce == n.nonce && f.name.time.Equal(n.time) })
	if i < 0 {
		return file{}, false
	}
	return *r.files[i], true
}

// newest returns copies of what is known of files, the newest first.
func (s *Store) newest(registration, before string, limit int) []file {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []file
	for id, r := range s.of {
		if registration != "" && id != registration {
			continue
		}
		for _, f := range slices.Backward(r.files) {
			if before == "" || f.name.id() < before {
				all = append(all, *f)
			}
		}
	}
	slices.SortFunc(all, func(a, b file) int { return -cmp.Compare(a.name.id(), b.name.id()) })
	return all[:min(len(all), max(0, limit))]
}
