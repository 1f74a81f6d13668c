"""Where a model's competence ends: which questions and images it refuses, and what it claims about them."""
