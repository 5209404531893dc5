"""A page that shows a dump: what each pass did to the graph, in a browser, from one file."""
