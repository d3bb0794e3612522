# Crossdiff with the packages of envs/lock.txt. torch comes from PyPI and brings CUDA's libraries.
#   docker build --tag crossdiff .
#   docker run --rm --gpus all --volume "$PWD:/run" crossdiff --configfile mine.yaml
FROM python:3.11-slim-bookworm

# Triton compiles its launchers when a training starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /crossdiff
COPY envs/lock.txt envs/lock.txt
RUN pip install --no-cache-dir -r envs/lock.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

# Results go below the folder that is mounted here.
WORKDIR /run
ENTRYPOINT ["snakemake", "--snakefile", "/crossdiff/Snakefile", "--directory", "/run"]
