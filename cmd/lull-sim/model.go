package main

import (
	"math"
	"math/rand/v2"
)

// What hosts do, and lull's defaults.
const (
	firstBytes  = 20e9    // in a host's first backup, most of it known from others
	firstNew    = 0.25    // of that
	nightBytes  = 400e6   // new blocks of a night, the median; log-normal with sigma 1
	compression = 0.55    // stored of each byte
	keepDays    = 60.0    // how long the blocks of a night live on, on average
	dataPack    = 18e6    // bytes
	objectMax   = 1 << 16 // blocks an index object
	pageOfList  = 1000    // names a LIST request
	sweepEvery  = 7       // nights between prunes
	thin        = 0.3     // of a pack's blocks alive: it is repacked
	entryBytes  = 40.5    // of the index cache, docs/scale.md
	renewals    = 24      // of the maintenance lease in a night of work
)

// model is the parameters of a year.
type model struct {
	hosts, days, domain int
	seed                uint64
	cost                cost
}

// side is what a host must carry that loads the index of some hosts.
type side struct {
	fetch float64 // bytes of index a night
	lists float64 // LIST requests a night
	cache float64 // bytes of its cache
}

// night is what one night costs.
type night struct {
	number                               int
	stored, objects, index, indexObjects float64 // in the store afterwards
	requests                             float64 // of all hosts' backups
	lease                                int     // objects written for the lease, in all nights
	deleted, repacked                    float64 // bytes, in all nights
	all, part                            side
}

// cohort is what one night stored and how much of that is still there.
type cohort struct {
	blocks, indexObjects, packs, alive float64
}

// play goes through the nights and reports those of a growing distance.
func (m *model) play(report func(*night)) {
	rng := rand.New(rand.NewPCG(m.seed, 0))
	var past []cohort
	var points, dropped float64
	var work night // of maintenance, so far
	for n := 1; n <= m.days; n++ {
		c := m.backup(rng, n == 1)
		past = append(past, c)
		points += float64(m.hosts)
		if n > int(keepDays) {
			dropped += float64(m.hosts)
		}
		now := &night{number: n, requests: float64(m.hosts) * m.cost.requests}
		if n%sweepEvery == 0 {
			m.prune(past, &work)
		}
		now.lease, now.deleted, now.repacked = work.lease, work.deleted, work.repacked
		m.total(past, points-dropped, now)
		m.carry(c, now)
		if n == 1 || n == 7 || n == 30 || n == 90 || n == 180 || n == m.days {
			report(now)
		}
	}
}

// backup is the night of all hosts.
func (m *model) backup(rng *rand.Rand, first bool) (c cohort) {
	for range m.hosts {
		fresh := nightBytes * math.Exp(rng.NormFloat64())
		if first {
			fresh = firstBytes * firstNew
		}
		blocks := fresh / m.cost.block
		c.blocks += blocks
		c.indexObjects += math.Ceil(blocks / objectMax)
		c.packs += math.Ceil(fresh*compression/dataPack) + 1 // and one of nodes
	}
	c.alive = 1
	return c
}

// prune deletes what no point needs, and repacks what is thin.
func (m *model) prune(past []cohort, now *night) {
	for i := range past {
		c := &past[i]
		left := math.Exp(-float64(len(past)-1-i) / keepDays)
		if i == 0 {
			left = max(left, 0.6) // the first backups are what systems consist of
		}
		bytes := c.blocks * m.cost.block * compression
		// Blocks of a pack are of one night of one host and die together, mostly.
		now.deleted += max(0, c.alive-left) * bytes
		if c.alive > thin && left <= thin {
			now.repacked += left * bytes
			c.packs *= thin
		}
		c.alive = left
	}
	now.lease += renewals + 2
}

// total is what lies in the store.
func (m *model) total(past []cohort, points float64, now *night) {
	for i := range past {
		c := &past[i]
		now.stored += c.blocks * c.alive * m.cost.block * compression
		now.indexObjects += c.indexObjects
		now.index += c.blocks*c.alive*m.cost.perBlock + c.indexObjects*m.cost.perObject
		now.objects += c.packs*c.alive + c.indexObjects
	}
	now.objects += points
}

// carry is what every host has to fetch, list and hold: of all hosts, and of those
// in its domain alone.
func (m *model) carry(c cohort, now *night) {
	share := float64(m.domain) / float64(m.hosts)
	fetch := c.blocks*m.cost.perBlock + c.indexObjects*m.cost.perObject
	now.all = side{fetch: fetch, lists: math.Ceil(now.indexObjects / pageOfList), cache: now.index / m.cost.perBlock * entryBytes}
	now.part = side{fetch: fetch * share, lists: math.Ceil(now.indexObjects * share / pageOfList), cache: now.all.cache * share}
}
