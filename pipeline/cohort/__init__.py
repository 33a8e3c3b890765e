"""Many studies: what a folder of them holds, and where their results go."""
