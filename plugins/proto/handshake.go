package proto

// The handshake. The cookie is no secret: it only keeps a user from starting a
// plugin by hand.
const (
	Version     = 1 // of the protocol, not of lull
	CookieKey   = "LULL_PLUGIN"
	CookieValue = "lull-writer-9c1f"
	// PluginName is the name of the one plugin in go-plugin's set.
	PluginName = "writer"
)

// Bounds that both sides enforce, in bytes.
const (
	// MaxMessage bounds every message: a document, or two streams of output.
	MaxMessage = 4 << 20
	// MaxFile bounds the data of ReadFile, WriteFile and Exec's input.
	MaxFile = 3 << 20
	// MaxText bounds error messages and hints.
	MaxText = 4 << 10
)
