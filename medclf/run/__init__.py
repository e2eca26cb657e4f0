"""THE WHOLE JOB: data in; a RUN folder out."""
