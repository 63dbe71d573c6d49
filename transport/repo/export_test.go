package repo

// Small makes o's sessions write small packs and many index objects, one upload
// at a time.
func Small(o OpenOptions) OpenOptions {
	o.limits = limits{dataPack: 2 << 20, nodePack: 2 << 20, uploaders: 1, index: 300}
	return o
}
