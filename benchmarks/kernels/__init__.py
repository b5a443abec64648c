"""What the kernels cost, and whether they are right: ``nox -s bench -- kernels``.

settings.py says how much; speed.py makes claims a and b of columns.py, hosted.py c, compiled.py d, agreement.py e (of
random_calls.py) and g (of edges.py and edge_files.py), each path in a process of its own (process.py), bundle_file.py
f, tables.py what the documents show. cuda.py measures the same kernels on a GPU.
"""
