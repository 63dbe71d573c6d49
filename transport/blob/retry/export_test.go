package retry

// Remember lets s remember so many names of a listing.
func (s *Store) Remember(names int) { s.names = names }
