package config

// Parse checks data under the name of its file. It touches nothing else. The
// error is always of type Errors.
func Parse(name string, data []byte) (*Config, error) {
	p := &parser{file: name}
	c := p.parse(data)
	if len(p.problems) > 0 {
		return nil, p.errors()
	}
	c.Warnings = p.sortedWarnings()
	return c, nil
}
