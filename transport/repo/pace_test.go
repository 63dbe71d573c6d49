package repo

import (
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/repo/internal/pack"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// rounds lets n rounds pass, with this share of the time waited.
func (p *pace) rounds(n int, share float64) {
	waited := time.Duration(share * float64(time.Second))
	for range n * paceRound {
		p.note(time.Second-waited, waited)
	}
}

func TestPace(t *testing.T) {
	type step struct {
		rounds int
		share  float64
		want   pack.Level
	}
	cases := map[string][]step{
		"processor-bound":               {{20, 0, pack.Normal}},
		"store-bound":                   {{1, 0.9, pack.Normal}, {1, 0.9, pack.High}, {20, 0.9, pack.High}},
		"climbs once":                   {{2, 0.65, pack.High}, {20, 0.4, pack.High}},
		"one slow round is none":        {{1, 0.9, pack.Normal}, {1, 0.3, pack.Normal}, {1, 0.9, pack.Normal}},
		"comes back":                    {{2, 0.9, pack.High}, {1, 0.1, pack.High}, {1, 0.1, pack.Normal}},
		"one quick round is none":       {{2, 0.9, pack.High}, {1, 0.1, pack.High}, {1, 0.7, pack.High}, {1, 0.1, pack.High}},
		"a moment of both":              {{3, 0.5, pack.Normal}, {2, 0.9, pack.High}, {9, 0.5, pack.High}},
		"no time passes on this clock":  {{2, 0, pack.Normal}},
		"less than a round is no round": {{0, 0.9, pack.Normal}},
	}
	for name, steps := range cases {
		t.Run(name, func(t *testing.T) {
			p := pace{ladder: Auto.ladder(2)}
			for i, s := range steps {
				p.rounds(s.rounds, s.share)
				if got := p.level(0, 1); got != s.want {
					t.Errorf("after step %d: level %d, want %d", i, got, s.want)
				}
			}
		})
	}
}

// Where little of what is met is new, it is compressed well from the start.
func TestPaceOfLittle(t *testing.T) {
	p := pace{ladder: Auto.ladder(2)}
	for _, c := range []struct {
		known, fresh int64
		want         pack.Level
	}{{0, 1 << 20, pack.Normal}, {1 << 20, 2 << 20, pack.Normal}, {2 << 20, 3 << 20, pack.High}, {9 << 30, 1 << 20, pack.High}} {
		if got := p.level(c.known, c.fresh); got != c.want {
			t.Errorf("%d known, %d new: level %d, want %d", c.known, c.fresh, got, c.want)
		}
	}
	fast := pace{ladder: CompressFast.ladder(2)}
	if got := fast.level(9, 1); got != pack.Fast {
		t.Errorf("fast: level %d", got)
	}
}

func TestPaceWithoutTime(t *testing.T) {
	p := pace{ladder: Auto.ladder(2)}
	for range 5 * paceRound {
		p.note(0, 0)
	}
	if got := p.level(0, 1); got != pack.Normal {
		t.Errorf("level %d", got)
	}
}

// Settings with one level stay there.
func TestLadders(t *testing.T) {
	for c, want := range map[Compression][2]pack.Level{
		"":           {pack.Normal, pack.Normal},
		Auto:         {pack.Normal, pack.Normal},
		CompressFast: {pack.Normal, pack.Fast}, // format 1 does not know S2
		CompressBest: {pack.Highest, pack.Highest},
	} {
		if err := c.check(); err != nil {
			t.Error(err)
		}
		for i, w := range want {
			if got := c.ladder(wire.Format(i + 1))[0]; got != w {
				t.Errorf("%q in format %d begins with level %d, want %d", c, i+1, got, w)
			}
		}
	}
	if err := Compression("lz4").check(); err == nil {
		t.Error("lz4 taken")
	}
	p := pace{ladder: CompressFast.ladder(2)}
	if p.rounds(9, 0.9); p.level(0, 1) != pack.Fast {
		t.Error("fast climbed")
	}
}
