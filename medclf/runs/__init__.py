"""The whole job: data in; a RUN folder with numbers, a report page and a bundle out."""
