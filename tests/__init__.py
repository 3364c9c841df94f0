import os

# torch's threads wait for each other busily: beside another worker on two cores they take two to four times the CPU time of one
os.environ.setdefault("OMP_NUM_THREADS", "1")
