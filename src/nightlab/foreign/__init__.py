"""Tasks of other systems, made ours: what they are, how they are laid out, who judges them.

form         the candidate                 who runs it                                     level here
openevolve   a program                     evaluate(path), which mostly imports it         artifact
gepa         a text, often a prompt        evaluate(candidate), which may run it           artifact
shinka       a program's run_experiment    the lab, in a jail without the evaluator; its   predictions
                                           validate and aggregate see results only

The evaluator always runs in a jail of its own: it sees its own files and what was handed in, no network, nothing of
ours. Where it imports the candidate, the two share a process, and no jail can stand between them.
"""
