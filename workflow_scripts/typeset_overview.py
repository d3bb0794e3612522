"""Write a table over all pairs and layers as LaTeX."""

from crossdiff.report.latex import table, write
from crossdiff.workflow.job import job

if __name__ == "__main__":
    with job(snakemake):
        write(snakemake.output[0], table(snakemake.input[0]))
