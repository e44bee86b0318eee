module vmops.example/testbed/front

go 1.26
