"""Tables of questions as people have them: files of every format, layouts of published sets, what a cell says."""
