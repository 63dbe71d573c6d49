package repo

// LevelOf tells the level at which a session compresses disk data at the moment.
func LevelOf(s *Session) int { return int(s.data.pace.level(0, 1)) }
