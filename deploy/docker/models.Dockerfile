# An image of models, in two forms. The folder of the models is the context:
#
#   docker build -f deploy/docker/models.Dockerfile --target volume -t forwardpass-models demo/models

# For a volume that Kubernetes mounts: nothing but the models.
FROM scratch AS volume
COPY . /

# For a container that copies them: with a `cp`.
FROM docker.io/library/busybox:1.37.0 AS init
COPY . /models/
USER 10001:10001
