package proxy

// SetGeneration has requests that come from now on decided on g and served with it, as a reload does.
func (s *Server) SetGeneration(g *Generation) { s.generation.Store(g) }
