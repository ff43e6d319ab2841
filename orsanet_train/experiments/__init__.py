"""Many runs that answer a question: trainings with one thing changed at a time, and their table."""
